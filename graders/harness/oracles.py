"""What right answers are, computed the slow and obvious way, without the engine."""

from typing import Any

import torch
from jaxtyping import Float
from jinja2.exceptions import TemplateError
from torch import Tensor

Messages = list[dict[str, str]]
Span = tuple[int, int]


def messages(system: str, question: str, response: str) -> Messages:
    """One exchange; an empty system prompt is no message."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": response}]


def renderings(conversation: Messages, tokenizer: Any) -> list[str]:
    """Every right rendering, the one this course uses first.

    A system prompt that the template has no role for is merged into the first user turn. An empty one is no message
    here; handing it to a template that takes it is accepted too.
    """

    def template(conv: Messages) -> str:
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


def turn_spans(
    text: str, conversation: Messages, tokenizer: Any, cursor: int = 0
) -> tuple[list[int], list[list[Span]]]:
    """Ids of a rendered conversation, and every acceptable token span of each assistant turn.

    Acceptable: the content; with the token after it, the end marker as a rule; up to the next turn's header, or of
    the last turn to the end of the text; each also from an empty thinking block.

    Args:
        cursor: the character from which on the first message is looked for.

    Raises:
        ValueError: an answer is empty.
    """
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = encoding["input_ids"], [a for a, _ in encoding["offset_mapping"]]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = []
    for message in conversation:
        char = text.index(message["content"].strip(), cursor)  # turns stand in order: search after the one before
        cursor = char + len(message["content"].strip())
        if message["role"] == "assistant":
            if cursor == char:
                raise ValueError("An empty answer has no tokens.")
            last = next((i for i, s in enumerate(starts) if s >= cursor), len(ids))
            header = next((i for i in range(last + 1, len(ids)) if ids[i] in special), len(ids))
            firsts = [next(i for i, s in enumerate(starts) if s >= char)]
            block = text.rfind("<think>", 0, char)
            if block >= 0 and not text[block:char].replace("<think>", "").replace("</think>", "").strip():
                firsts.append(next(i for i, s in enumerate(starts) if s >= block))
            whole = [len(ids)] if message is conversation[-1] else []
            ends = dict.fromkeys([last, min(last + 1, len(ids)), header, *whole])
            turns.append([(a, b) for a in firsts for b in ends])
    return ids, turns


def answer_spans(text: str, answer: str, tokenizer: Any) -> tuple[list[int], list[Span]]:
    """Ids of a rendered conversation and every acceptable token span of its last answer, content only first."""
    last = [{"role": "assistant", "content": answer}]
    ids, turns = turn_spans(text, last, tokenizer, text.rindex(answer.strip()))
    return ids, turns[0]


def spans(conversation: Messages, tokenizer: Any) -> tuple[list[int], list[Span]]:
    """Ids of a conversation as this course renders it, and every acceptable span of its last answer."""
    ids, turns = turn_spans(renderings(conversation, tokenizer)[0], conversation, tokenizer)
    return ids, turns[-1]


@torch.inference_mode()
def hidden(model: Any, ids: list[int], layer: int) -> Float[Tensor, "tokens d"]:
    """`hidden_states[layer]` of one unbatched, unpadded sequence, in the model's own dtype, on the CPU."""
    output = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True)
    return output.hidden_states[layer][0].cpu()
