"""How one batch decodes: without a model's own defaults, to the end of each row's turn, and never on from NaN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from personalab.lm.templates import facts


@dataclass(frozen=True)
class Completion:
    """The answer's text without special tokens, and its length in tokens without the end-of-turn marker."""

    text: str
    n_prompt: int
    n_tokens: int
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class TurnEnd:
    """What ends an answer: any of some tokens, or (for templates that write turns in plain words) a string."""

    tokens: list[int]
    string: str | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
        """The model's own list (Gemma's and Llama's have several), the tokenizer's EOS, the template's end of a turn.

        A tokenizer's EOS may be another one than its template's: `<|endoftext|>` where turns end in `<|im_end|>`.
        """
        own, known = model.generation_config.eos_token_id, facts(tokenizer)
        own = own if isinstance(own, list) else [own]
        tokens = [*own, tokenizer.eos_token_id, *known.stop_tokens]
        return cls(list(dict.fromkeys(t for t in tokens if t is not None)), known.stop_string)

    def completion(
        self, row: list[int], n_prompt: int, max_tokens: int, tokenizer: PreTrainedTokenizerBase
    ) -> Completion:
        """What a row of generated tokens says before its end."""
        end = next((i for i, token in enumerate(row) if token in self.tokens), len(row))
        stopped = end < min(len(row), max_tokens)
        tokens = row[: min(end, max_tokens)]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if self.string and self.string in text:
            text = text[: text.index(self.string)]
            n = next(n for n in range(len(tokens) + 1) if len(tokenizer.decode(tokens[:n], True)) >= len(text))
            return Completion(text.rstrip(), n_prompt, n, "stop")
        return Completion(text, n_prompt, len(tokens), "stop" if stopped else "length")


def stopping(
    end: TurnEnd, limits: Int[Tensor, "b"], prompt_width: int, tokenizer: PreTrainedTokenizerBase
) -> StoppingCriteriaList:
    """Each row stops at its own limit, and at the string that ends a turn (tokens stop it by themselves)."""
    criteria: list[StoppingCriteria] = [RowLimits(limits, prompt_width)]
    if end.string:
        criteria.append(StopStringCriteria(tokenizer, [end.string]))
    return StoppingCriteriaList(criteria)


class RowLimits(StoppingCriteria):
    """Stops each row at its own number of new tokens."""

    def __init__(self, limits: Int[Tensor, "b"], prompt_width: int) -> None:
        self.limits, self.prompt_width = limits, prompt_width

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: object, **kwargs: object) -> Tensor:
        return input_ids.shape[1] - self.prompt_width >= self.limits


class FiniteLogits(LogitsProcessor):
    """Ends generation where a row's logits hold NaN or +infinity: their argmax would be token 0, again and again.

    Args:
        requests: of every row, named in the error.
    """

    def __init__(self, requests: Sequence[object]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        finite = scores.amax(dim=1).isfinite()
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"The model's logits hold NaN or infinity for {self.requests[row]!r:.200}. Its weights are damaged, an "
                "intervention is far too strong, or the dtype is too narrow (float16): try float32 or bfloat16."
            )
        return scores


@contextmanager
def plain_config(model: PreTrainedModel, eos: list[int], pad: int, max_new_tokens: int) -> Iterator[GenerationConfig]:
    """Greedy decoding, and inside the `with` block nothing of what the model's own defaults may carry.

    `generate` fills whatever a configuration leaves open from the model's: repetition penalties, suppressed tokens, a
    least length (transformers pull request 42702). Sampling happens in `GumbelSampler`: the argmax of logits plus
    Gumbel noise is an exact sample.
    """
    config = GenerationConfig(
        eos_token_id=eos or None,
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
        disable_compile=True,
    )
    unwrap = getattr(model, "get_base_model", None)
    holders = [model, unwrap()] if callable(unwrap) else [model]  # PEFT hands its own on to the model it wraps
    own = [m.generation_config for m in holders]
    for m in holders:
        m.generation_config = GenerationConfig()
    try:
        yield config
    finally:
        for m, before in zip(holders, own, strict=True):
            m.generation_config = before
