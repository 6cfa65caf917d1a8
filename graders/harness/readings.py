"""Section 3, shared: what an answer's mean activation is after every block, under each right convention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from jinja2.exceptions import TemplateError
from tokenizers import processors
from torch import Tensor

from graders.harness import oracles
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import load_tiny_model

Span = tuple[int, int]


def load_family(family: str, n_blocks: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A tiny model whose tokenizer adds no BOS of its own, as with Qwen and SmolLM2: the template writes it."""
    model, tok = load_tiny_model(family, seed, n_blocks, dtype)
    tok.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return model, tok


def refuses_system_prompts(tok: Any, call: Callable[[], Any]) -> bool:
    """Whether a learner's code, in `call`, hands a system prompt to a template that has no role for it (Gemma 2's).

    No Qwen model's template is like that, so such code is right: it is graded on other models.
    """
    with suppress(TemplateError):
        tok.apply_chat_template([{"role": "system", "content": "-"}, {"role": "user", "content": "-"}], tokenize=False)
        return False
    try:
        call()
    except TemplateError:
        return True
    except Exception:
        return False
    return False


@torch.inference_mode()
def stream(model: Any, ids: list[int]) -> Float[Tensor, "L+2 tokens d"]:
    """One unpadded sequence: the embedding, each block's own output, and the last one after the final norm."""
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for block in decoder_blocks(model)
    ]
    try:
        result = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    parts = [result.hidden_states[0], *outputs, result.hidden_states[-1]]
    return torch.stack([part[0].cpu() for part in parts])


@dataclass
class Reading:
    """An answer's activations in its conversation, and every token span that may count as the answer."""

    states: Float[Tensor, "L+2 tokens d"]
    spans: list[Span]

    @property
    def n_blocks(self) -> int:
        return len(self.states) - 2

    def mean(self, span: Span) -> Float[Tensor, "L+2 d"]:
        """Mean over a span in float64: row 0 the embedding, row k + 1 block k, the last row the normed one."""
        return self.states[:, slice(*span)].double().mean(1)

    def means(self) -> Float[Tensor, "spans L+2 d"]:
        """`mean` of each acceptable span, content only first."""
        return torch.stack([self.mean(span) for span in self.spans])


def read(model: Any, tok: Any, system: str, question: str, response: str) -> Reading:
    """An answer as its conversation puts it to the model."""
    ids, spans = oracles.spans(oracles.messages(system, question, response), tok)
    return Reading(stream(model, ids), spans)


def accepted(rows: Float[Tensor, "spans L+2 d"], block: int) -> list[Float[Tensor, "d"]]:
    """Right values for one block: of each span; for the last block raw, and after the final norm."""
    indices = [block + 1] if block + 3 < rows.shape[1] else [block + 1, block + 2]
    return [rows[s, i] for i in indices for s in range(len(rows))]
