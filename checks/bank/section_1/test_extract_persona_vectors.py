import logging
import warnings

import numpy as np
import pandas as pd
import torch

from checks.bank import right, wrong
from checks.bank.section_1.test_extract_response_activations import content_only, encoded, end_marker_included
from graders.harness import oracles


def vectors(
    model, tokenizer, personas, questions, responses, layer, keep, extract=content_only, mean=lambda rows: rows.mean(0)
):
    found = {}
    for name, system in personas.items():
        kept = [i for i in range(len(questions)) if keep(name, i, responses.get((name, i), ""))]
        if not kept:
            warnings.warn(f"{name} has no answers", stacklevel=2)
            continue
        rows = extract(
            model,
            tokenizer,
            [system] * len(kept),
            [questions[i] for i in kept],
            [responses[name, i] for i in kept],
            layer,
        )
        found[name] = mean(rows)
    return found


def good(scores, threshold):
    return lambda name, i, text: bool(text.strip()) and (scores or {}).get((name, i), threshold) >= threshold


@right
def with_a_warning(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    return vectors(
        model, tokenizer, personas, questions, responses, layer, good(scores, score_threshold), end_marker_included
    )


@right
def all_at_once_then_grouped(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    keep = good(scores, score_threshold)
    keys = [(p, i) for p in personas for i in range(len(questions)) if keep(p, i, responses.get((p, i), ""))]
    if silent := [p for p in personas if p not in {k[0] for k in keys}]:
        raise ValueError(f"no answers left for {silent}")
    rows = content_only(
        model, tokenizer, [personas[p] for p, _ in keys], [questions[i] for _, i in keys], [responses[k] for k in keys],
        layer,
    )  # fmt: skip
    owner = [p for p, _ in keys]
    return {p: torch.stack([r for r, o in zip(rows, owner, strict=True) if o == p]).mean(0) for p in personas}


@wrong("scores are ignored")
def scores_ignored(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    return vectors(model, tokenizer, personas, questions, responses, layer, good(None, 3))


@wrong("wrong values|NaN|expected the personas")
def exclusive_threshold(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    def keep(name, i, text):
        return bool(text.strip()) and (scores or {}).get((name, i), 99) > score_threshold

    return vectors(model, tokenizer, personas, questions, responses, layer, keep)


@wrong("wrong values")
def threshold_fixed_at_three(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    return vectors(model, tokenizer, personas, questions, responses, layer, good(scores, 3))


def zeros_for_empty(model, tokenizer, systems, questions, responses, layer):
    rows = content_only(model, tokenizer, systems, questions, [r or "-" for r in responses], layer)
    return torch.stack([row if r else torch.zeros_like(row) for row, r in zip(rows, responses, strict=True)])


@wrong("wrong values")
def empty_answers_counted(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    def keep(name, i, text):
        return (scores or {}).get((name, i), score_threshold) >= score_threshold

    return vectors(model, tokenizer, personas, questions, responses, layer, keep, zeros_for_empty)


def nan_for_empty(model, tokenizer, systems, questions, responses, layer):
    return zeros_for_empty(model, tokenizer, systems, questions, responses, layer) / torch.tensor(
        [[float(bool(r))] for r in responses]
    )


@wrong("NaN or infinity")
def empty_answers_become_nan(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    def keep(name, i, text):
        return (scores or {}).get((name, i), score_threshold) >= score_threshold

    return vectors(model, tokenizer, personas, questions, responses, layer, keep, nan_for_empty)


@wrong("long ones count more")
def token_weighted(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    def tokens(model, tokenizer, systems, questions, responses, layer):
        return torch.cat(
            [
                oracles.hidden(model, ids, layer)[slice(*accepted[0])].float()
                for ids, accepted in encoded(systems, questions, responses, tokenizer)
            ]
        )

    keep = good(scores, score_threshold)
    return vectors(model, tokenizer, personas, questions, responses, layer, keep, tokens)


@wrong("got a vector")
def nan_for_nobody(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = with_a_warning(model, tokenizer, personas, questions, responses, layer, scores, score_threshold)
    d = next(iter(found.values())).shape
    return {name: found.get(name, torch.full(d, float("nan"))) for name in personas}


@wrong("Keep an answer without a score")
def unscored_dropped(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    def keep(name, i, text):
        return bool(text.strip()) and (scores is None or scores.get((name, i), 0) >= score_threshold)

    return vectors(model, tokenizer, personas, questions, responses, layer, keep)


@wrong("wrong values|expected shape")
def sums(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    keep = good(scores, score_threshold)
    return vectors(
        model, tokenizer, personas, questions, responses, layer, keep, content_only, lambda rows: rows.sum(0)
    )


@right
def with_pandas(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    """A table of answers, filtered and grouped; a persona that is missing is printed."""
    table = pd.DataFrame([(p, i, responses.get((p, i), "")) for p in personas for i in range(len(questions))])
    table.columns = ["persona", "i", "text"]
    table["score"] = [(scores or {}).get((p, i), np.nan) for p, i in zip(table.persona, table.i, strict=True)]
    table = table[(table.text.str.strip() != "") & ((table.score >= score_threshold) | table.score.isna())]
    found = {}
    for persona, group in table.groupby("persona", sort=False):
        rows = content_only(
            model, tokenizer, [personas[persona]] * len(group), [questions[i] for i in group.i], list(group.text), layer
        )
        found[persona] = rows.mean(dim=0)
    for persona in personas.keys() - found.keys():
        print(f"Warning: no valid responses for {persona}, skipped")
    return {p: found[p] for p in personas if p in found}


@right
def named_in_a_key_error(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    keep = good(scores, score_threshold)
    for p in personas:
        if not any(keep(p, i, responses[p, i]) for i in range(len(questions))):
            raise KeyError(f"{p} keeps no answer")
    return vectors(model, tokenizer, personas, questions, responses, layer, keep)


@right
def with_a_log(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = vectors(model, tokenizer, personas, questions, responses, layer, good(scores, score_threshold))
    for p in personas:
        if p not in found:
            logging.getLogger("course").warning("no answer of %s counts", p)
    return found


@wrong("Keep an answer without a score")
def arena_style(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    """Only what a judge has scored enters, once there are scores."""
    persona_vectors = {}
    for persona_name, system_prompt in personas.items():
        filtered = [
            (questions[q_idx], responses[persona_name, q_idx])
            for q_idx in range(len(questions))
            if responses.get((persona_name, q_idx))
            and (scores is None or scores.get((persona_name, q_idx), 0) >= score_threshold)
        ]
        if not filtered:
            print(f"Warning: No valid responses for {persona_name}")
            continue
        asked, answered = zip(*filtered, strict=True)
        found = content_only(model, tokenizer, [system_prompt] * len(asked), list(asked), list(answered), layer)
        persona_vectors[persona_name] = found.mean(dim=0)
    return persona_vectors


@wrong("left out without a word")
def left_out_in_silence(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vectors(model, tokenizer, personas, questions, responses, layer, good(scores, score_threshold))


@wrong("does not name it")
def nameless_error(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    found = left_out_in_silence(model, tokenizer, personas, questions, responses, layer, scores, score_threshold)
    if len(found) < len(personas):
        raise ValueError("a persona has no answers")
    return found


@wrong("got a vector")
def zeros_for_nobody(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    found = left_out_in_silence(model, tokenizer, personas, questions, responses, layer, scores, score_threshold)
    return {p: found.get(p, torch.zeros(model.config.hidden_size)) for p in personas}


@wrong("Keep the order of `personas`")
def sorted_personas(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    found = with_a_warning(model, tokenizer, personas, questions, responses, layer, scores, score_threshold)
    return dict(sorted(found.items()))


@wrong("wrong values")
def unit_norm(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    keep = good(scores, score_threshold)
    args = (model, tokenizer, personas, questions, responses, layer, keep, content_only)
    return vectors(*args, lambda rows: torch.nn.functional.normalize(rows.mean(0), dim=0))


@wrong("wrong values")
def weighted_by_score(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    """An answer below the threshold counts less, instead of not at all."""

    def every(name, i, text):
        return bool(text.strip())

    found = {}
    for p in personas:
        one, numbers = {p: personas[p]}, [i for i in range(len(questions)) if every(p, i, responses[p, i])]
        weights = torch.tensor([float((scores or {}).get((p, i), 3)) for i in numbers])
        args = (model, tokenizer, one, questions, responses, layer, every, content_only)
        if numbers:
            found |= vectors(*args, lambda rows, w=weights: (rows * w[:, None]).sum(0) / w.sum())
    return found


@wrong("system prompt is left out")
def system_prompts_dropped(model, tokenizer, personas, questions, responses, layer, scores=None, score_threshold=3):
    args = (questions, responses, layer, good(scores, score_threshold))
    return vectors(model, tokenizer, dict.fromkeys(personas, ""), *args)
