"""What a batch's prompts begin with, run through the model once: for rows that share it, and for a sweep's rows."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from personalab.lm import prefix_cache
from personalab.lm.interventions import Intervention, applied, per_row, treatments_of
from personalab.lm.models import decoder_blocks
from personalab.lm.positions import may_share_with_gaps, may_spread


def begun(
    model: PreTrainedModel, prompts: list[list[int]], interventions: Sequence[Intervention]
) -> list[prefix_cache.Prefix]:
    """What each row begins with, run once for all rows that share it; all empty where that would not pay."""
    treatments = treatments_of(interventions, len(prompts))
    if len(set(treatments)) == 1 and may_share_with_gaps(model):
        return _prefixes(model, prompts, _for_rows(interventions, [0]))
    if len({*map(tuple, prompts)}) <= len(prompts) / 2 and may_spread(model):
        return _of_sweep(model, prompts, interventions, treatments)
    return [prefix_cache.NOTHING] * len(prompts)


def _prefixes(
    model: PreTrainedModel, prompts: list[list[int]], interventions: Sequence[Intervention]
) -> list[prefix_cache.Prefix]:
    """What rows that are treated alike begin with; all empty where too few share it."""
    starts = [prefix_cache.NOTHING] * len(prompts)
    groups = list(prefix_cache.groups(prompts))
    if len(groups) > len(prompts) / 2:
        return starts
    shared = [prefix_cache.shared_length([prompts[i] for i in g], limit=len(prompts[g[0]])) for g in groups]
    rest = max((len(prompts[i]) - n for g, n in zip(groups, shared, strict=True) if n for i in g), default=0)
    with applied(model, interventions):
        for group, n in zip(groups, shared, strict=True):
            n = n or max(len(prompts[group[0]]) - rest, 0)  # a row on its own must not make all others wait
            prefix = prefix_cache.run_prefix(model, decoder_blocks(model)[-1], prompts[group[0]][:n])
            for i in group:
                starts[i] = prefix
    return starts


def _for_rows(interventions: Sequence[Intervention], rows: list[int]) -> list[Intervention]:
    """Those that treat rows alike stay as they are: they are told of rows once a batch, and may count on it."""
    return [i.for_rows(rows) if per_row(i) else i for i in interventions]


def _of_sweep(
    model: PreTrainedModel,
    prompts: list[list[int]],
    interventions: Sequence[Intervention],
    treatments: list[tuple[float, ...]],
) -> list[prefix_cache.Prefix]:
    """Each row's prompt but for its last token: read once, up to the block that treats rows differently as one row."""
    blocks, split = decoder_blocks(model), min(i.block for i in interventions if per_row(i))

    def run(ids: list[int], rows: list[int], after: prefix_cache.Prefix) -> prefix_cache.Prefix:
        with applied(model, _for_rows(interventions, rows)), prefix_cache.spread_after(blocks[split], len(rows)):
            return prefix_cache.run_prefix(model, blocks[-1], ids, after)

    starts = [prefix_cache.NOTHING] * len(prompts)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows_of.setdefault(tuple(prompt), []).append(i)
    texts = [list(text) for text in rows_of]
    for group in prefix_cache.groups(texts):
        alike = [texts[k] for k in group]
        n = prefix_cache.shared_length(alike, limit=len(alike[0]))
        first = {treatments[i]: i for text in alike for i in rows_of[tuple(text)]}  # one row for each treatment
        opening = run(alike[0][:n], [*first.values()], prefix_cache.NOTHING)
        for text in alike:
            own = {treatments[i]: i for i in rows_of[tuple(text)]}
            whole = run(text[n:-1], [*own.values()], opening.picked([[*first].index(t) for t in own]))
            for i in rows_of[tuple(text)]:
                starts[i] = whole.picked([[*own].index(treatments[i])])
    return starts
