"""What right answers are, computed the slow and obvious way, without the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from jinja2.exceptions import TemplateError
from torch import Tensor


@dataclass(frozen=True)
class Exchange:
    """A rendered conversation: its text, and the character range of the last answer."""

    text: str
    start: int
    end: int


def messages(system: str, question: str, response: str) -> list[dict[str, str]]:
    """One exchange; an empty system prompt is no message."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": response}]


def exchange(conversation: list[dict[str, str]], tokenizer: Any) -> Exchange:
    """Render with the template, merging a system prompt it has no role for; find the answer from the end."""

    def template(conv: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(conv, tokenize=False, enable_thinking=False)

    conversation = [m for m in conversation if m["role"] != "system" or m["content"]]
    try:
        text = template(conversation)
    except TemplateError:
        system, user, *rest = conversation
        text = template([{"role": "user", "content": system["content"] + "\n\n" + user["content"]}, *rest])
    answer = conversation[-1]["content"].strip()
    start = text.rindex(answer)
    return Exchange(text, start, start + len(answer))


def token_starts(text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of the text, and the character at which each token starts."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], [a for a, _ in encoding["offset_mapping"]]


def spans(conversation: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and every acceptable token span: the content; with the end marker; to the end; from a thinking block on."""
    item = exchange(conversation, tokenizer)
    ids, starts = token_starts(item.text, tokenizer)
    first = next(i for i, s in enumerate(starts) if s >= item.start)
    last = next((i for i, s in enumerate(starts) if s >= item.end), len(ids))
    firsts = [first]
    block = item.text.rfind("<think>", 0, item.start)
    if block >= 0 and not item.text[block : item.start].replace("<think>", "").replace("</think>", "").strip():
        firsts.append(next(i for i, s in enumerate(starts) if s >= block))
    ends = list(dict.fromkeys([last, min(last + 1, len(ids)), len(ids)]))
    return ids, [(a, b) for a in firsts for b in ends]


@torch.inference_mode()
def hidden(model: Any, ids: list[int], layer: int) -> Float[Tensor, "tokens d"]:
    """`hidden_states[layer]` of one unbatched, unpadded sequence, in the model's own dtype, on the CPU."""
    output = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True)
    return output.hidden_states[layer][0].cpu()
