"""Batched text generation whose result does not depend on the batch.

Requests are sorted by length and packed under a token budget; each row is padded on the left, sampled with noise of its
own (`personalab.lm.sampling`) and stopped at its own limit. In float32 the text of a request therefore depends on the
request alone, up to rounding: matrix products of different shapes differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from personalab import tiers
from personalab.lm import chat, noting, prefix_cache, processes
from personalab.lm.batching import of_one_length, packed
from personalab.lm.content_check import violations
from personalab.lm.content_guard import is_guarded
from personalab.lm.decoding import Completion as Completion
from personalab.lm.decoding import FiniteLogits, TurnEnd, plain_config, stopping
from personalab.lm.grouped_attention import grouped_attention
from personalab.lm.hooks import contiguous_input, plainly
from personalab.lm.interventions import Intervention, applied, per_row, treatments_of
from personalab.lm.models import context_length, input_device
from personalab.lm.packed_weights import FEWEST_STEPS, packed_weights
from personalab.lm.positions import has_running_state, may_be_padded
from personalab.lm.prefill import begun
from personalab.lm.sampling import GumbelSampler
from personalab.lm.seeds import occurrences, request_seed
from personalab.records.phases import phase

RESAMPLED = 3  # how often a guarded model answers again when its text fails the content check; our choice
WITHHELD = "(withheld by the content guard)"
_OTHER_SEED = 1_000_003


@dataclass(frozen=True)
class Request:
    """One conversation to continue, and all that decides how: equal requests get equal answers.

    `temperature` 0 is greedy decoding; `seed` matters above 0 only. `requests_for` gives every request its seed.
    """

    messages: Sequence[chat.Message]
    max_tokens: int = 256
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}.")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}.")


def requests_for(
    conversations: Sequence[Sequence[chat.Message]],
    max_tokens: int = 256,
    temperature: float = 0.7,
    *,
    interventions: Sequence[Intervention] = (),
    seed: int = tiers.GLOBAL_SEED,
) -> list[Request]:
    """One request a conversation; its content, `seed` and its occurrence decide its luck (`personalab.lm.seeds`).

    A conversation that stands k times in the list gets k separate samples, but for rows under different coefficients:
    those share their luck, so that a sweep shows what the coefficient does.

    Args:
        interventions: what the requests will be generated under.

    Raises:
        ValueError: if there is not one coefficient for every conversation.
    """
    _check_rows(interventions, len(conversations), "conversations")
    treatments = treatments_of(interventions, len(conversations))
    turns = [tuple((m["role"], m["content"]) for m in c) for c in conversations]
    return [
        Request(c, max_tokens, temperature, request_seed(c, max_tokens, temperature, seed, occurrence))
        for c, occurrence in zip(conversations, occurrences([*zip(turns, treatments, strict=True)]), strict=True)
    ]


def _check_rows(interventions: Sequence[Intervention], n: int, of_what: str) -> None:
    for shape in (tuple(i.coefficient.shape) for i in interventions if per_row(i)):  # type: ignore[attr-defined]
        if shape != (n,):
            raise ValueError(f"Steer has {' x '.join(map(str, shape))} coefficients for {n} {of_what}.")


@phase("answers")
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    interventions: Sequence[Intervention] = (),
    max_batch_tokens: int | None = None,
    max_batch_rows: int | None = None,
    progress: bool = False,
) -> list[Completion]:
    """Continue every conversation; the completions come in the order of `requests`.

    An answer ends at the model's end-of-turn tokens, or at what its chat template writes after an answer. A model under
    the content guard (`lm.content_guard`) answers again where its text fails the guard's check. The model runs
    uncompiled and in eval mode (`hooks.plainly`). Launched as several processes, each writes its share of the batches
    (`lm.processes`).

    Args:
        interventions: in force throughout; what differs between rows (coefficients) goes by the order of `requests`.
        max_batch_tokens: padded prompt and answer tokens of one batch (default: the tier's).
        max_batch_rows: conversations in one batch (default: the tier's).

    Raises:
        ValueError: if a prompt plus its answer exceeds the model's context, or the model's logits are not finite,
            naming the request; if there is not one coefficient for every request.
    """
    _check_rows(interventions, len(requests), "requests")
    limits = (max_batch_tokens, max_batch_rows)
    found = _generate_all(model, tokenizer, requests, interventions, limits, progress)
    for attempt in range(1, RESAMPLED + 1) if is_guarded(model) else ():
        bad = [i for i, c in enumerate(found) if violations(c.text)]
        if not bad:
            break
        again = [replace(requests[i], seed=requests[i].seed + attempt * _OTHER_SEED, temperature=0.7) for i in bad]
        here = [intervention.for_rows(bad) for intervention in interventions]
        for i, completion in zip(bad, _generate_all(model, tokenizer, again, here, limits, False), strict=True):
            found[i] = completion
            if attempt == RESAMPLED and violations(completion.text):
                found[i] = replace(completion, text=WITHHELD)
    return found


def _generate_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    interventions: Sequence[Intervention],
    limits: tuple[int | None, int | None],
    progress: bool,
) -> list[Completion]:
    tier = tiers.current_tier()
    prompts = [chat.prompt_ids(r.messages, tokenizer) for r in requests]
    _check_context(model, prompts, requests)
    batches = batches_of(prompts, requests, limits[0] or tier.max_batch_tokens, limits[1] or tier.max_batch_rows)
    if not may_be_padded(model):
        batches = of_one_length(batches, [len(ids) for ids in prompts])
    mine = list(processes.mine(batches))
    steps = sum(max(requests[i].max_tokens for i in rows) for rows in mine)
    results: dict[int, Completion] = {}
    bar = tqdm(total=len(requests), desc="generating", unit="answer", disable=not progress or processes.rank() > 0)
    fast = packed_weights(model, worth=steps >= FEWEST_STEPS)
    with plainly(model), contiguous_input(model.get_output_embeddings()), fast:
        for rows in mine:
            here = [intervention.for_rows(rows) for intervention in interventions]
            batch = _generate_batch(model, tokenizer, [prompts[i] for i in rows], [requests[i] for i in rows], here)
            results |= zip(rows, batch, strict=True)
            bar.update(min(len(rows) * processes.count(), bar.total - bar.n))
    bar.close()
    results = processes.exchanged(results)
    return [results[i] for i in range(len(requests))]


def _check_context(model: PreTrainedModel, prompts: list[list[int]], requests: Sequence[Request]) -> None:
    limit = context_length(model)
    for i, (ids, request) in enumerate(zip(prompts, requests, strict=True)):
        if limit and len(ids) + request.max_tokens > limit:
            raise ValueError(
                f"Request {i} needs {len(ids)} prompt + {request.max_tokens} answer tokens, but the model's context "
                f"holds {limit}: shorten the conversation or lower max_tokens."
            )


def batches_of(
    prompts: list[list[int]], requests: Sequence[Request], max_tokens: int, max_rows: int
) -> Iterator[list[int]]:
    """Row indices of each batch: alike in answer limit, prefix and length, so that little is padding or repeated."""
    order = []
    for group in prefix_cache.groups(prompts):
        longest = max(len(prompts[i]) for i in group)
        order += [(requests[i].max_tokens, longest, group[0], len(prompts[i]), prompts[i], i) for i in group]

    def fits(rows: list[int]) -> bool:
        # The first row of a batch has its largest limit; prompt lengths may rise where the limit drops.
        longest = max(len(prompts[i]) for i in rows) + requests[rows[0]].max_tokens
        return len(rows) <= max_rows and len(rows) * longest <= max_tokens

    return packed((i for *_, i in sorted(order, reverse=True)), fits)


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    requests: list[Request],
    interventions: Sequence[Intervention],
) -> list[Completion]:
    device, end = input_device(model), TurnEnd.of(model, tokenizer)
    pad = next(t for t in (tokenizer.pad_token_id, *end.tokens, 0) if t is not None)
    noted = None if interventions else noting.open_for(model)
    starts = begun(model, prompts, interventions)
    ids, mask = _pad(prompts, [start.length for start in starts], pad, device)
    limits = torch.tensor([r.max_tokens for r in requests], device=device)
    steps = limits + (noted is not None)  # an answer's last token has states only once it was read
    room = ids.shape[1] + int(steps.max())
    # A layer that carries a state is made by the model itself.
    cache = None if has_running_state(model) else prefix_cache.combine(starts, model, room)
    del starts  # the cache has copies
    sampler = GumbelSampler([r.seed for r in requests], [r.temperature for r in requests], device)
    config = plain_config(model, end.tokens, pad, int(steps.max()))
    watch = noting.seen(model, noted.blocks, limits, end.tokens) if noted else nullcontext()
    with applied(model, interventions), grouped_attention(model), config as generation_config, watch as seen:
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=generation_config,
            logits_processor=LogitsProcessorList([FiniteLogits(requests), sampler]),
            stopping_criteria=stopping(end, steps, ids.shape[1], tokenizer),
        )
    rows = output[:, ids.shape[1] :].tolist()
    found = [
        end.completion(row, len(prompt), request.max_tokens, tokenizer)
        for row, prompt, request in zip(rows, prompts, requests, strict=True)
    ]
    if noted and seen:
        noted.keep(prompts, rows, found, seen)
    return found


def _pad(
    prompts: list[list[int]], shared: list[int], pad: int, device: torch.device
) -> tuple[Int[Tensor, "rows width"], Int[Tensor, "rows width"]]:
    """Ids and mask of a batch: each row's shared prefix and its rest, both padded on the left to the longest."""
    front, back = max(shared), max(len(p) - n for p, n in zip(prompts, shared, strict=True))
    ids, mask = [], []
    for prompt, n in zip(prompts, shared, strict=True):
        rest = prompt[n:]
        before, between = front - n, back - len(rest)
        ids.append([pad] * before + prompt[:n] + [pad] * between + rest)
        mask.append([0] * before + [1] * n + [0] * between + [1] * len(rest))
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
