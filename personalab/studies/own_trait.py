"""Section 3 on any model: the vector of a trait, beside words, token embeddings, the prompt alone and chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.judging.rubrics import TRAITS
from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import as_messages
from personalab.measure.answers import contrastive_answers, score_answers
from personalab.measure.baselines import difference_of_means, mean_token_embeddings, word_scores
from personalab.measure.outcome import Example, Ledger, Outcome, over, sizes, spread
from personalab.measure.separation import Curve, Separation, separation
from personalab.records.upstream import Trait, load_trait, load_trait_artifacts
from personalab.studies.contrast import PARAPHRASED, SHOWN, Contrast, contrast
from personalab.studies.own_axis import N_RANDOM, checked_block, random_directions
from personalab.studies.trait_parts import compose_trait_artifact
from personalab.tiers import current_tier

TRAIT_DEPTH = 17 / 30  # share of the blocks: where the organism's report steers
NEUTRAL = "You are a helpful assistant."  # every answer is read under it, so that only the text differs
FEWEST = 4  # questions to extract from or to test on
FEW = 10  # effective pairs, our choice: the mean of fewer says more of these answers than of the trait
WEAK = "This trait is none of the seven that the embedded judge was fitted on: its scores of it are weak."


class HeldOut(NamedTuple):
    """Answers to questions that extraction has not seen."""

    rows: list[dict[str, Any]]
    shows: Bool[np.ndarray, "n"]
    states: Float[Tensor, "n L d"]  # read under the neutral prompt


def find_trait(trait: str | Path | Trait, description: str | None = None) -> tuple[Trait, Sequence[str]]:
    """A trait's prompts, and the questions to test on (empty: those that extraction leaves over).

    Args:
        trait: one of the course's names, the path of a trait's JSON file, or a `Trait`; with a description any
            adjective, whose prompts are then put together by `compose_trait_artifact`.

    Raises:
        ValueError: for a name without prompts, naming the choices; DataError for a file that is none of a trait.
    """
    if isinstance(trait, Trait):
        return trait, trait.extra.get("eval_questions", ())
    if description:
        parts = compose_trait_artifact(str(trait), description)
        positive, negative = (tuple(pair[side] for pair in parts["instruction"]) for side in ("pos", "neg"))
        made = Trait(str(trait), positive, negative, tuple(parts["questions"]), parts["eval_prompt"])
        return made, parts["eval_questions"]
    if str(trait).endswith(".json"):
        read = load_trait(trait)
        return read, read.extra.get("eval_questions", ())
    known = load_trait_artifacts("extract")
    if str(trait) not in known:
        raise ValueError(
            f"No prompts for the trait {str(trait)!r}: use one of {', '.join(known)}, the path of a trait's .json "
            "file, or give a description (--description), from which its prompts are made."
        )
    evaluation = load_trait_artifacts("eval")[str(trait)].questions
    return known[str(trait)], [q for q in evaluation if q not in PARAPHRASED]


def study_trait_vector(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trait: Trait,
    test_questions: Sequence[str] = (),
    *,
    n_questions: int = 8,
    n_test: int = 12,
    block: int | None = None,
    max_tokens: int = 40,
) -> tuple[Outcome, Mapping[str, Curve]]:
    """The vector of a trait at every block, as `studies.contrast` makes it, and what it tells apart on new questions.

    Held-out answers are to other questions, under the same instructions, and read under one neutral prompt; the tier's
    judge says which of them show the trait.

    Args:
        test_questions: to test on (default: the trait's questions that extraction leaves over).

    Returns:
        The outcome, whose vectors point towards the trait; and AUC by block.

    Raises:
        ValueError: if no pair of answers is effective, there are too few questions, or the block does not exist.
    """
    block = checked_block(model, block, TRAIT_DEPTH)
    asked, tests = trait.questions[:n_questions], list(test_questions or trait.questions[n_questions:])[:n_test]
    _check_enough(trait, n_questions=asked, n_test=tests)
    made = contrast(model, tokenizer, trait, n_questions=n_questions, max_tokens=max_tokens)
    held = _held_out(model, tokenizer, trait, tests, max_tokens)
    ledger, found = Ledger(), Counter(with_it[-2]["content"] for with_it, _ in made.pairs)
    shares = np.array([found[question] / len(trait.positive) for question in asked])
    ledger.add("result", "share of pairs that are effective", over(shares), made.n_asked, "pairs")
    curves = _compared(ledger, model, tokenizer, made, held, block)
    judged_weakly = trait.name not in TRAITS and current_tier().judged_here
    outcome = Outcome(
        f"trait_vector-{trait.name}",
        f"Trait vector: {trait.name}",
        f"The mean state of {made.n_pairs} answers that show the trait, minus that of the same questions' answers that "
        "do not: the effective pairs, where the judge gives the answer that was asked for the trait 50 or more of 100, "
        "the other one less, and finds both coherent. The AUC is the chance that a new answer with the trait lies "
        "further along the vector than one without; 0.5 is chance. Every answer is read under one neutral prompt, so "
        "that only its text differs.",
        block,
        made.vectors,
        "towards the trait",
        ledger.rows,
        [*ledger.notes, *([_few(made)] if made.n_pairs < FEW else []), *([WEAK] if judged_weakly else [])],
        _examples(made),
        sizes(
            model,
            pairs=made.n_pairs,
            asked=made.n_asked,
            questions=len(asked),
            tests=len(tests),
            shown=f"{int(held.shows.sum())} of {len(held.shows)}",
            tokens=max_tokens,
        ),
        trait=trait,
        questions=tests,
        metadata={"scale": "difference of means, as it is", "n_pairs": made.n_pairs, "n_asked": made.n_asked},
    )
    return outcome, curves


def _few(made: Contrast) -> str:
    return (
        f"Only {made.n_pairs} of {made.n_asked} pairs are effective, so the vector rests on {made.n_pairs} answers of "
        "each kind: the model hardly takes the trait on when asked, or the judge does not see it. Ask for more "
        "(n_questions, --questions), and read answers, before you use it."
    )


def _check_enough(trait: Trait, **questions: Sequence[str]) -> None:
    for what, some in questions.items():
        if len(some) < FEWEST:
            raise ValueError(
                f"{what}: {len(some)} questions of the trait {trait.name!r} are too few, at least {FEWEST} are needed. "
                "Ask for more, or add questions to the trait's file (`questions`, `eval_questions`)."
            )


def _held_out(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trait: Trait, questions: Sequence[str], max_tokens: int
) -> HeldOut:
    """Answers to new questions under every pair of instructions in turn, with and without the trait."""
    pairs = [{"pos": p, "neg": n} for p, n in zip(trait.positive, trait.negative, strict=True)]
    rows: list[dict[str, Any]] = []
    for i, pair in enumerate(pairs):
        if own := questions[i :: len(pairs)]:
            asked = {trait.name: {"instruction": [pair], "questions": own}}
            rows += contrastive_answers(model, tokenizer, asked, max_tokens=max_tokens)[trait.name]
    answers = [row["response"] for row in rows]
    scores = score_answers(trait, [row["question"] for row in rows], answers, coherence=False).trait
    kept = [i for i, score in enumerate(scores) if not np.isnan(score)]  # NaN: a refusal
    read = [as_messages(NEUTRAL, rows[i]["question"], rows[i]["response"]) for i in kept]
    return HeldOut([rows[i] for i in kept], scores[kept] >= SHOWN, mean_response_activations(model, tokenizer, read))


def _compared(
    ledger: Ledger,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    made: Contrast,
    held: HeldOut,
    block: int,
) -> Mapping[str, Curve]:
    """AUC of vector, baselines and controls on the held-out answers; nothing where the judge sees one group only."""
    n, questions = len(held.rows), [row["question"] for row in held.rows]
    if held.shows.all() or not held.shows.any():
        ledger.notes.append(
            f"AUC on new questions: {int(held.shows.sum())} of {n} answers show the trait by the judge, and both "
            "groups are needed. Ask for more (n_test), or use a model that takes the trait on."
        )
        return {}
    prompts = prompt_only_vectors(model, tokenizer, made)

    def separated(columns: Float[Tensor, "n k"]) -> Separation:
        return separation(columns, held.shows, questions)

    texts = [row["response"] for row in held.rows]
    columns = [held.states[:, block] @ made.vectors[block], *_text_baselines(model, tokenizer, made, texts)]
    both = separated(torch.stack([*columns, held.states[:, block] @ prompts[block]], dim=1))
    ledger.add("result", "AUC of the vector", lambda: both.at(0), n, "answers")
    ledger.add("baseline", "AUC of word counts", lambda: both.at(1), n, "answers")
    ledger.add("baseline", "AUC of token embeddings", lambda: both.at(2), n, "answers")
    ledger.add("control", "AUC of the prompt-only vector (identical texts)", lambda: both.at(3), n, "answers")
    random = separated(held.states[:, block] @ random_directions(N_RANDOM, held.states.shape[2]).T)
    ledger.add("control", "AUC of random directions (middle 95 %)", lambda: spread(random.auc), N_RANDOM, "directions")
    for column, name in ((1, "word counts"), (3, "prompt-only vector")):
        ledger.add("difference", f"AUC, vector minus {name}", lambda c=column: both.difference(0, c), n, "answers")  # type: ignore[misc]
    found = (torch.einsum("nld,ld->nl", held.states, v) for v in (made.vectors, prompts))
    return dict(zip(("vector", "prompt alone"), (separated(p).curve for p in found), strict=True))


def prompt_only_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, made: Contrast
) -> Float[Tensor, "L d"]:
    """What being told leaves behind: answers *without* the trait, each read under both of its pair's prompts."""
    read = [[*messages[:-1], negative[-1]] for positive, negative in made.pairs for messages in (positive, negative)]
    states = mean_response_activations(model, tokenizer, read)
    return difference_of_means(states, [1, 0] * len(made.pairs))


def _text_baselines(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, made: Contrast, texts: Sequence[str]
) -> list[Float[Tensor, "n"]]:
    """Scores of texts by word counts, and by the direction of the mean token embeddings, both from the kept pairs."""
    train, labels = _texts(made), [1, 0] * len(made.pairs)
    words = word_scores(train, labels, texts)
    direction = difference_of_means(mean_token_embeddings(model, tokenizer, train), labels)
    return [torch.from_numpy(words).float(), mean_token_embeddings(model, tokenizer, texts) @ direction]


def _texts(made: Contrast) -> list[str]:
    """With the trait and without it in turn."""
    return [messages[-1]["content"] for messages in chain.from_iterable(made.pairs)]


def _examples(made: Contrast) -> list[Example]:
    """Two of the pairs that the vector was made from."""
    return [
        Example.of(label, messages[:-1], messages[-1]["content"])
        for pair in made.pairs[:2]
        for label, messages in zip(("asked for the trait", "asked for its opposite"), pair, strict=True)
    ]
