"""Section 4, shared: tiny models that answer in words whatever the temperature, and what they say when steered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graders.harness.hooked import Pass, changed, observed
from graders.harness.prompts import Messages, check_prompt
from personalab.lm.models import n_blocks
from personalab.lm.tiny import load_tiny_model

RIGHT_MODES = ("all", "response")  # positions that right steered answers may use; the signatures leave it open
_SHARP = 1e5  # our choice: the closest choice between two tokens is then 36 logits wide, far above rounding


def sharp(family: str, blocks: int = 4) -> tuple[Any, Any]:
    """A tiny model of whole words (and the end marker) whose sampling has one outcome at any usual temperature."""
    model, tok = load_tiny_model(family, n_blocks=blocks)
    vocabulary = tok.get_vocab()
    words = [i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and len(w) > 1]
    head = nn.Linear(32, len(vocabulary))
    bias = torch.full((len(vocabulary),), -1e9)
    bias[[*words, tok.eos_token_id]] = 0
    with torch.no_grad():
        head.weight.copy_(_SHARP * model.lm_head.weight)
        head.bias.copy_(bias)
    model.lm_head = head
    if hasattr(model.config, "final_logit_softcapping"):
        model.config.final_logit_softcapping = None  # it would make ties of large logits
    return model, tok


def pushes(n_tokens: int, n_prompt: int, push: Float[Tensor, "d"], mode: str) -> Float[Tensor, "tokens d"]:
    """What a steerer adds at each position of a whole sequence, read in one pass instead of many."""
    position = torch.arange(n_tokens)[:, None]
    where = {
        "all": position >= 0,
        "prompt": position < n_prompt,
        "response": position >= n_prompt - 1,
        "new tokens": position >= n_prompt,
        "prompt's end": position == n_prompt - 1,
    }
    return where[mode] * push.cpu().float()


@torch.inference_mode()
def whole(
    model: Any, ids: Sequence[int], layer: int, push: Float[Tensor, "tokens d"], watch: Sequence[int] | None = None
) -> tuple[Float[Tensor, "blocks tokens d"], Float[Tensor, "tokens vocab"]]:
    """States and logits of the whole sequence in one pass without a cache, `push` added to the block's output."""
    with (
        changed(model, [(layer, lambda hidden: hidden + push.to(hidden))]),
        observed(model, watch or range(n_blocks(model))) as passes,
    ):
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    return torch.stack([s[0].float() for s in passes[0].states.values()]), logits.float().cpu()


def read(passes: list[Pass]) -> tuple[list[int], int, Float[Tensor, "blocks tokens d"]]:
    """All ids the model read, how many of them were the prompt, and every block's output at each."""
    ids: list[int] = []
    states: list[Tensor] = []
    for step in passes:
        if step.ids.shape[1] > 1:  # the prompt, or, without a cache, everything again
            ids, states = [], []
        ids += step.ids[0].tolist()
        states.append(torch.stack([s[0].float() for s in step.states.values()]))
    return ids, passes[0].ids.shape[1], torch.cat(states, dim=1)


def answer(model: Any, tok: Any, prompt: list[int], layer: int, push: Float[Tensor, "d"], mode: str, n: int) -> str:
    """The likeliest answer of up to `n` tokens, one whole pass each, without special tokens."""
    return tok.decode(_likeliest(model, prompt, layer, push, mode, n), skip_special_tokens=True).strip()


def answer_with_markers(
    model: Any, tok: Any, prompt: list[int], layer: int, push: Float[Tensor, "d"], mode: str, n: int
) -> str:
    """The same, the end marker's name included."""
    return tok.decode(_likeliest(model, prompt, layer, push, mode, n)).strip()


def _likeliest(model: Any, prompt: list[int], layer: int, push: Tensor, mode: str, n: int) -> list[int]:
    new: list[int] = []
    while len(new) < n and model.generation_config.eos_token_id not in new:
        ids = [*prompt, *new]
        _, logits = whole(model, ids, layer, pushes(len(ids), len(prompt), push, mode))
        new.append(int(logits[-1].argmax()))
    return new


def check_question(found: list[int], question: str, tok: Any, what: str, doubled: bool = True) -> None:
    """The model read the question in its chat template, without a system prompt.

    A doubled BOS passes with a note where `doubled`: code written for Qwen, whose tokenizer adds none, is right there.
    """
    right: Messages = [{"role": "user", "content": question}]
    if doubled and tok.bos_token_id is not None and found[:2] == [tok.bos_token_id] * 2:
        print(f"{what}: note that BOS is there twice. Tokenise with add_special_tokens=False: the template writes one.")
        found = found[1:]
    system = {"role": "system", "content": "You are a helpful assistant."}
    check_prompt(found, right, tok, what, {"you add a system prompt: ask without": [system, *right]})
