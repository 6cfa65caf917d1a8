"""Batched text generation whose result does not depend on the batch.

Requests are sorted by length and packed under a token budget; each row is padded on the left, sampled with noise of its
own (`personalab.lm.sampling`) and stopped at its own limit. In float32 the text of a request therefore depends on the
request alone, up to rounding: matrix products of different shapes differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from personalab import tiers
from personalab.lm import chat, prefix_cache
from personalab.lm.batching import packed
from personalab.lm.content_check import violations
from personalab.lm.content_guard import is_guarded
from personalab.lm.hooks import contiguous_input
from personalab.lm.interventions import Intervention, applied, per_row
from personalab.lm.models import decoder_blocks
from personalab.lm.sampling import GumbelSampler
from personalab.lm.seeds import occurrences, request_seed

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


@dataclass(frozen=True)
class Completion:
    """The answer's text without special tokens, and its length in tokens without the end-of-turn marker."""

    text: str
    n_prompt: int
    n_tokens: int
    finish: Literal["stop", "length"]


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
    coefficients = [i.coefficient.tolist() for i in interventions if per_row(i)]  # type: ignore[attr-defined]
    if bad := [len(k) for k in coefficients if len(k) != len(conversations)]:
        raise ValueError(f"Steer has {bad[0]} coefficients for {len(conversations)} conversations.")
    rows = zip(*coefficients, strict=True) if coefficients else [()] * len(conversations)
    turns = [tuple((m["role"], m["content"]) for m in c) for c in conversations]
    return [
        Request(c, max_tokens, temperature, request_seed(c, max_tokens, temperature, seed, occurrence))
        for c, occurrence in zip(conversations, occurrences([*zip(turns, rows, strict=True)]), strict=True)
    ]


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

    A model under the content guard (`lm.content_guard`) answers again where its text fails the guard's check.

    Args:
        interventions: in force throughout; what differs between rows (coefficients) goes by the order of `requests`.
        max_batch_tokens: padded prompt and answer tokens of one batch (default: the tier's).
        max_batch_rows: conversations in one batch (default: the tier's).

    Raises:
        ValueError: if a prompt plus its answer exceeds the model's context, naming the request.
    """
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
    prompts = [_prompt_ids(r.messages, tokenizer) for r in requests]
    _check_context(model, prompts, requests)
    results: list[Completion | None] = [None] * len(requests)
    bar = tqdm(total=len(requests), desc="generating", unit="answer", disable=not progress)
    for rows in batches_of(prompts, requests, limits[0] or tier.max_batch_tokens, limits[1] or tier.max_batch_rows):
        here = [intervention.for_rows(rows) for intervention in interventions]
        with applied(model, here), contiguous_input(model.get_output_embeddings()):
            # A prefix is run as one row, which can't stand for rows that are treated differently.
            share = not any(map(per_row, here))
            batch = _generate_batch(model, tokenizer, [prompts[i] for i in rows], [requests[i] for i in rows], share)
        for i, completion in zip(rows, batch, strict=True):
            results[i] = completion
        bar.update(len(rows))
    bar.close()
    return [r for r in results if r is not None]


def _prompt_ids(messages: Sequence[chat.Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(chat.render(messages, tokenizer, add_generation_prompt=True), add_special_tokens=False)[
        "input_ids"
    ]


def _check_context(model: PreTrainedModel, prompts: list[list[int]], requests: Sequence[Request]) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
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
        order += [(requests[i].max_tokens, longest, group[0], len(prompts[i]), i) for i in group]

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
    share_prefixes: bool,
) -> list[Completion]:
    eos = stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    starts = _prefixes(model, prompts) if share_prefixes else [prefix_cache.Prefix(0, None)] * len(prompts)
    ids, mask = _pad(prompts, [p.length for p in starts], pad, model.device)
    limits = torch.tensor([r.max_tokens for r in requests], device=model.device)
    sampler = GumbelSampler([r.seed for r in requests], [r.temperature for r in requests], model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=prefix_cache.combine(starts, model) if any(p.length for p in starts) else None,
        generation_config=_plain_config(eos, pad, int(limits.max())),
        logits_processor=LogitsProcessorList([sampler]),
        stopping_criteria=StoppingCriteriaList([RowLimits(limits, ids.shape[1])]),
    )
    rows = zip(output[:, ids.shape[1] :].tolist(), prompts, requests, strict=True)
    return [_completion(row, prompt, request, eos, tokenizer) for row, prompt, request in rows]


def _prefixes(model: PreTrainedModel, prompts: list[list[int]]) -> list[prefix_cache.Prefix]:
    """What each row begins with, run once for all rows that share it; all empty where too few do."""
    starts = [prefix_cache.Prefix(0, None)] * len(prompts)
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    if any(kind != "full_attention" for kind in kinds):  # a sliding window forgets, so its cache can't be padded
        return starts
    groups = list(prefix_cache.groups(prompts))
    if len(groups) > len(prompts) / 2:
        return starts
    shared = [prefix_cache.shared_length([prompts[i] for i in g], limit=len(prompts[g[0]])) for g in groups]
    rest = max((len(prompts[i]) - n for g, n in zip(groups, shared, strict=True) if n for i in g), default=0)
    for group, n in zip(groups, shared, strict=True):
        n = n or max(len(prompts[group[0]]) - rest, 0)  # a row on its own must not make all others wait
        prefix = prefix_cache.run_prefix(model, decoder_blocks(model)[-1], prompts[group[0]][:n])
        for i in group:
            starts[i] = prefix
    return starts


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


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the model's own list (Gemma's and Llama's have several) and the tokenizer's EOS."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(t for t in [*own, tokenizer.eos_token_id] if t is not None))


def _plain_config(eos: list[int], pad: int, max_new_tokens: int) -> GenerationConfig:
    """Greedy decoding without the repetition penalties, top-k and top-p that a model's own defaults may carry.

    Sampling happens in `GumbelSampler`: the argmax of logits plus Gumbel noise is an exact sample.
    """
    return GenerationConfig(
        eos_token_id=eos,
        pad_token_id=pad,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
    )


class RowLimits(StoppingCriteria):
    """Stops each row at its own number of new tokens."""

    def __init__(self, limits: Int[Tensor, "b"], prompt_width: int) -> None:
        self.limits, self.prompt_width = limits, prompt_width

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: object, **kwargs: object) -> Tensor:
        return input_ids.shape[1] - self.prompt_width >= self.limits


def _completion(
    row: list[int], prompt: list[int], request: Request, eos: list[int], tokenizer: PreTrainedTokenizerBase
) -> Completion:
    end = next((i for i, token in enumerate(row) if token in eos), len(row))
    finish: Literal["stop", "length"] = "stop" if end < min(len(row), request.max_tokens) else "length"
    tokens = row[: min(end, request.max_tokens)]
    return Completion(tokenizer.decode(tokens, skip_special_tokens=True), len(prompt), len(tokens), finish)
