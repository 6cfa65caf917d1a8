import warnings

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


@right
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
