"""What right answers are, computed the slow and obvious way, without the engine."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from jinja2.exceptions import TemplateError
from torch import Tensor


def messages(system: str, question: str, response: str) -> list[dict[str, str]]:
    """One exchange; an empty system prompt is no message."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": response}]


def renderings(conversation: list[dict[str, str]], tokenizer: Any) -> list[str]:
    """Every right rendering, the one this course uses first.

    A system prompt that the template has no role for is merged into the first user turn. An empty one is no message
    here; handing it to a template that takes it is accepted too.
    """

    def template(conv: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(conv, tokenize=False, enable_thinking=False)

    kept = [m for m in conversation if m["role"] != "system" or m["content"]]
    found = []
    for conv in [kept] if kept == conversation else [kept, conversation]:
        try:
            found.append(template(conv))
        except TemplateError:
            system, user, *rest = conv
            found.append(template([{"role": "user", "content": system["content"] + "\n\n" + user["content"]}, *rest]))
    return found


def answer_spans(text: str, answer: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a rendered conversation and every acceptable token span of its last answer.

    Acceptable: the content; with the end marker; to the end of the text; each also from an empty thinking block on.
    """
    char = text.rindex(answer.strip())
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = encoding["input_ids"], [a for a, _ in encoding["offset_mapping"]]
    first = next(i for i, s in enumerate(starts) if s >= char)
    last = next((i for i, s in enumerate(starts) if s >= char + len(answer.strip())), len(ids))
    firsts = [first]
    block = text.rfind("<think>", 0, char)
    if block >= 0 and not text[block:char].replace("<think>", "").replace("</think>", "").strip():
        firsts.append(next(i for i, s in enumerate(starts) if s >= block))
    ends = list(dict.fromkeys([last, min(last + 1, len(ids)), len(ids)]))
    return ids, [(a, b) for a in firsts for b in ends]


def spans(conversation: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """`answer_spans` of a conversation as this course renders it."""
    return answer_spans(renderings(conversation, tokenizer)[0], conversation[-1]["content"], tokenizer)


@torch.inference_mode()
def hidden(model: Any, ids: list[int], layer: int) -> Float[Tensor, "tokens d"]:
    """`hidden_states[layer]` of one unbatched, unpadded sequence, in the model's own dtype, on the CPU."""
    output = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True)
    return output.hidden_states[layer][0].cpu()
