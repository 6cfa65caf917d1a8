"""What the results on record mean, in a line each."""

from __future__ import annotations

MAIN_TRAITS = ("sycophantic", "evil", "hallucinating")


def _each(section: str, name: str, meaning: str) -> dict[str, str]:
    """One row for each of the three main traits."""
    return {f"{section}/{trait}/{name}": f"{trait}: {meaning}" for trait in MAIN_TRAITS}


CASTS = {  # of Section 1: how many assistant-like, mid-range and fantastical roles, and what else was done to them
    "10_14_16": "10 assistant-like, 14 mid-range, 16 fantastical roles: all",
    "6_6_6": "6, 6, 6",
    "4_14_16": "4, 14, 16",
    "4_6_16": "4, 6, 16",
    "2_6_16": "2, 6, 16",
    "0_14_16": "0, 14, 16",
    "10_14_16_without_three": "all but evaluator, analyst, consultant",
    "4_6_16_without_three": "4, 6, 16 but evaluator, analyst, consultant",
    "10_14_16_filtered": "all that have answers which score 3, those answers only",
    "4_6_16_filtered": "of 4, 6, 16 the same: those but evaluator, analyst, consultant",
}


def _casts() -> dict[str, str]:
    """Two rows for each cast: the cosine and its p."""
    rows = {}
    for cast, roles in CASTS.items():
        rows[f"section_1/casts/{cast}"] = f"abs. cosine of PC1 and the axis, cast of {roles}"
        rows[f"section_1/casts/{cast}_p"] = f"its permutation p, cast of {roles}"
    return rows


PARTS = {  # of Section 2's cap: what is left of it
    "plain": "no cap",
    "chosen": "the chosen cap",
    "first_block": "its first block only",
    "own_threshold_one_block": "one block, the threshold computed in the section",
    "another_axis": "an axis without roles",
    "half_distance": "thresholds at half the distance from the median",
    "double_distance": "thresholds at double the distance",
    "written_tokens_only": "on written tokens only",
}


def _parts() -> dict[str, str]:
    """Two rows for each part of the cap: its effect, and what it removes."""
    rows = {f"section_2/parts/{part}": f"out of persona, calibration prompts: {what}" for part, what in PARTS.items()}
    return rows | {
        f"section_2/parts/{part}_removed": f"what it removes a written token: {what}"
        for part, what in PARTS.items()
        if part != "plain"
    }


# Key -> what it is. The course promises these to be on record; a run records others beside them.
ROWS = {
    "section_1/pc1_axis_cosine": (
        "abs. cosine of PC1 (40 roles, defaults left out) and the Assistant Axis (other questions)"
    ),
    "section_1/pc1_axis_p": "permutation p of that cosine, random personas as defaults",
    "section_1/pc1_axis_cosine_minus_null": "that cosine minus its mean with random personas as defaults",
    **_casts(),
    "section_1/pc1_share": "variance of persona space along PC1",
    "section_1/default_minus_fantastical": "lowest default minus highest fantastical role, cosine with the axis",
    "section_1/played_share": "share of role answers that the judge scores 3",
    "section_1/filtered_axis_cosine": "cosine of the axis with and without the filter by score",
    "section_1/filtered_pc1_axis_cosine": "abs. cosine of PC1 and the axis, answers that score 3 only",
    "section_1/new_roles_auc": "chance that a new assistant-like role is above a new mid-range one on the axis",
    "section_1/seconds": "seconds for the whole section",
    "section_2/drift_slope_effect_size": (
        "Cohen's d of slopes over turns: coding and writing against therapy-like and philosophical talks"
    ),
    "section_2/drift_slope_effect_size_shuffled": (
        "control: the same with each talk's turns shuffled, mean and central 95 % of draws"
    ),
    "section_2/drift_slope_effect_size_random": (
        "control: the same along random directions, mean size and central 95 % of draws"
    ),
    "section_2/drift_slope_effect_size_minus_random": "effect size of slopes, axis minus random directions",
    "section_2/drift_effect_size": (
        "Cohen's d of levels (not the paper's claim): coding against the two that drift, without writing"
    ),
    "section_2/drift_effect_size_writing": "the same d of levels, with writing talks beside coding",
    "section_2/steering_spearman": "rank correlation of steering towards the Assistant with role adherence",
    "section_2/steering_spearman_random": "control: the same along random directions of equal length",
    "section_2/names/towards_minus_away": "asked for its name: in role, steered towards the Assistant minus away",
    "section_2/names/random_towards_minus_away": "control: the same along a random direction of equal length",
    **_parts(),
    "section_2/harm_rate_default": "share of answers out of persona on held-out prompts, plain",
    "section_2/harm_rate_capped": "share of answers out of persona on held-out prompts, capped",
    "section_2/harm_cut": "relative cut of answers out of persona by the chosen cap (the paper counts harmful answers)",
    "section_2/removal_ratio_random": (
        "control: what the random caps remove on held-out prompts, over what the axis caps remove"
    ),
    "section_2/removal_ratio_percentile": "the same ratio for random caps at the same percentile",
    "section_2/harm_rate_random_cap": (
        "control: share out of persona, capped along random directions that remove as much"
    ),
    "section_2/harm_rate_capped_minus_random": "out of persona, capped minus that control, same prompts",
    "section_2/harm_rate_default_asked": "out of persona where a system prompt asks for the role, plain",
    "section_2/harm_rate_capped_asked": "out of persona where a system prompt asks for the role, capped",
    "section_2/harm_rate_default_unasked": "out of persona where no system prompt asks for it, plain",
    "section_2/harm_rate_capped_unasked": "out of persona where no system prompt asks for it, capped",
    "section_2/capability_default": "multiple-choice items right, plain",
    "section_2/capability_capped": "multiple-choice items right, capped",
    "section_2/capability_difference": "multiple-choice items right, capped minus plain",
    "section_2/harm_cut_strongest": "relative cut, out of persona, by the strongest cap within the limits",
    "section_2/capability_difference_strongest": "multiple-choice items right, strongest cap minus plain",
    "section_2/perplexity_ratio": "perplexity of prose, capped over plain",
    "section_2/perplexity_ratio_random": "control: perplexity of prose, capped along random directions, over plain",
    "section_2/coherence_default": "coherence of answers to held-out prompts (0-100), plain",
    "section_2/coherence_capped": "coherence of answers to held-out prompts (0-100), capped",
    "section_2/seconds": "seconds for the whole section",
    **_each("organism", "contrast", "judge's score of the trait organism, prompts for minus prompts against it"),
    "coherence/spearman_readers": (
        "rank correlation of the coherence that gates steering with readers' labels, held-out answers"
    ),
    "coherence/spearman_readers_judge": "control: rank correlation of the embedded judge's coherence, same answers",
    "coherence/spearman_readers_adapter": (
        "rank correlation of that coherence with readers' labels, answers of the organism that the course ships"
    ),
    **_each("section_3", "effective_pairs", "effective pairs of 100"),
    **_each("section_3", "heldout_auc", "AUC of held-out answers re-read under one neutral prompt"),
    **_each("section_3", "heldout_auc_words", "baseline: AUC of word counts on those answers"),
    **_each("section_3", "heldout_auc_embeddings", "baseline: AUC of mean token embeddings on those answers"),
    **_each("section_3", "heldout_auc_prompt", "control: AUC of the vector of identical texts on those answers"),
    **_each("section_3", "heldout_auc_minus_words", "AUC of held-out answers, vector minus word counts"),
    **_each("section_3", "heldout_auc_minus_embeddings", "AUC of held-out answers, vector minus token embeddings"),
    "section_3/block": "block for all traits: reads transfer texts as well as the best does, and steers most",
    **_each("section_3", "transfer_auc", "AUC on texts chosen so that words don't help"),
    **_each("section_3", "transfer_auc_words", "baseline: AUC of word counts on those texts"),
    **_each("section_3", "transfer_auc_embeddings", "baseline: AUC of mean token embeddings on those texts"),
    **_each("section_3", "transfer_auc_prompt", "control: AUC of the vector of identical texts on those texts"),
    **_each("section_3", "transfer_auc_base", "control: AUC of the plain base model's reading, same vector"),
    **_each("section_3", "transfer_auc_minus_words", "AUC on those texts, vector minus word counts"),
    **_each("section_3", "transfer_auc_minus_embeddings", "AUC on those texts, vector minus token embeddings"),
    **_each(
        "section_3", "transfer_auc_minus_base", "AUC on those texts, the organism's reading minus the base model's"
    ),
    **_each(
        "section_3", "rank_look_alike", "mean rank (0-1) along the vector of texts with its words, without the trait"
    ),
    **_each(
        "section_3", "rank_without_usual_words", "mean rank along the vector of texts with the trait, not its words"
    ),
    **_each("section_3", "name_alone", "judge's score under the trait's name alone"),
    **_each("section_3", "name_alone_minus_instructions", "that score minus the one with instructions"),
    **_each("section_3", "half_split_cosine", "cosine of vectors that share no question"),
    **_each("section_3", "half_split_cosine_identical", "control: the same cosine for identical texts"),
    **_each("section_3", "half_split_cosine_minus_identical", "their difference"),
    **_each("section_3", "steered", "judge's score, the vector added at that block"),
    **_each("section_3", "steered_random", "control: a random direction of the same length"),
    **_each("section_3", "steered_minus_random", "judge's score, steered minus random push"),
    **_each("section_3", "leak_auc", "control: AUC of identical text under two prompts, same block"),
    "section_3/sae_explained_variance": "variance of held-out states that the sparse autoencoder explains",
    "section_3/seconds": "seconds for the whole section",
    **_each("section_4", "steering_spearman", "rank correlation of coefficient and score, single answers"),
    **_each("section_4", "steering_spearman_minus_shuffled", "rank correlation minus that with words shuffled"),
    **_each("section_4", "steering_gain", "gain of the mean score at the best coherent coefficient"),
    **_each("section_4", "steering_effect_minus_random", "gain minus that along random vectors of equal length"),
    **_each("section_4", "steering_range", "lowest to highest mean score, coherent range"),
    **_each("section_4", "steering_range_shuffled", "the same range, words of each answer shuffled"),
    **_each("section_4", "steering_range_minus_shuffled", "range minus that of shuffled words"),
    "section_4/pre_response_r": "projection before the answer against its score, r, mean of three traits",
    "section_4/pre_response_r_grade": "baseline: the system prompt's number against the score, r",
    "section_4/pre_response_r_minus_grade": "r of the projection minus r of the prompt's number",
    "section_4/pre_response_r_within": "projection against score within a system prompt, r",
    **_each("section_4", "alarm_caught", "alarm before the answer: share of answers with the trait that ring"),
    **_each("section_4", "alarm_false", "share of answers without the trait that ring"),
    **_each("section_4", "alarm_precision", "share of alarms that are right, if 1 % of answers have the trait"),
    **_each("section_4", "alarm_precision_grade", "baseline: the same of an alarm by the system prompt's number"),
    "section_4/axis_share": "share of the Assistant Axis in the span of seven trait vectors",
    "section_4/axis_share_prompts": "baseline: that share of seven prompt-only vectors, read on identical texts",
    "section_4/axis_share_minus_prompts": "share of trait vectors minus that of prompt-only vectors",
    "section_4/axis_share_beyond_prompts": "share of the axis that the traits add to the prompt-only vectors",
    "section_4/axis_share_beyond_contrasts": "control: share that seven random contrasts add to them",
    "section_4/seconds": "seconds for the whole section",
    **_each("finetuning", "shift_r", "shift before the answer and score after finetuning, r over 24 datasets"),
    **_each("finetuning", "shift_r_random", "control: mean size of that r along random directions"),
    **_each("finetuning", "shift_r_loss", "baseline: r of the final training loss"),
    **_each("finetuning", "shift_r_weights", "baseline: r of the size of the weight change"),
    **_each("finetuning", "shift_r_judge", "baseline: r of the judge's score of the training answers"),
    **_each("finetuning", "shift_r_minus_judge", "r of the shift minus that of the judge's score"),
    **_each("finetuning", "shift_r_specific", "r without what the vector shares with the other traits'"),
    **_each("finetuning", "shift_r_elsewhere", "r without the trait's own category"),
    "finetuning/prevention_cut": "share of the acquired trait that steering in training takes away, three traits",
    "finetuning/prevention_capability_difference": "items right, steered in training minus plain, points of 100",
    "finetuning/inference_cut": "the same share by steering while it answers, matched",
    "finetuning/inference_capability_difference": "items right, steered while it answers minus plain, points of 100",
    "finetuning/inoculation_cut": "the same share by an inoculation prompt",
    **{f"finetuning/caft_cut/{trait}": f"{trait}: the same share by ablation in training" for trait in MAIN_TRAITS},
    "finetuning/screening_auc": "chance that a planted row ranks above a normal one by projection difference",
    "finetuning/screening_auc_judge": "baseline: by the judge's score of the row",
    "finetuning/screening_auc_minus_judge": "by projection difference minus by the judge's score",
    "finetuning/screening_auc_words": "baseline: by the words of its answer",
    "finetuning/screening_auc_loss": "baseline: by its loss before training",
    "finetuning/screening_auc_unseen": "by projection difference, planted rows that the judge scores low",
    "finetuning/seconds": "seconds for the whole bonus section",
}
