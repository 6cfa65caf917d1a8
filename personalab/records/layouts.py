"""Training rows in published layouts, as messages: ShareGPT, Alpaca, prompt and completion, a system text beside."""

from __future__ import annotations

from typing import Any

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "developer": "system"}
_NOT_READ = {
    "chosen": "holds two answers to compare, which a file cannot train on: keep the chosen ones as 'messages'",
    "rejected": "holds two answers to compare, which a file cannot train on: keep the chosen ones as 'messages'",
    "preferred_output": "holds two answers to compare, which a file cannot train on: keep one as 'messages'",
    "text": "holds a conversation already written in some template: give its turns as 'messages'",
    "contents": "is Gemini's layout: give the turns as 'messages' of 'role' and 'content'",
}
_CALLS = ("tool_calls", "function_call", "tools", "functions")


def with_messages(row: Any) -> Any:
    """The row with its conversation as `messages`, those not learned with weight 0; of another layout, as it is.

    Read are `conversations` of `from` and `value` (ShareGPT), `instruction`, `input` and `output` (Alpaca), `prompt`
    and `completion` (texts, or lists of messages as in TRL), a `system` text beside any of them, content as a list of
    text parts, and `train` or `training` false on a message (axolotl).

    Raises:
        ValueError: for what would be lost in silence: tools and their calls, earlier rounds in `history`, two answers
            to compare; or a layout that is known and not read.
    """
    if not isinstance(row, dict):
        return row
    talk = row["messages"] if "messages" in row else _talk(row)
    if not isinstance(talk, list):
        if found := next((name for name in _NOT_READ if name in row), None):
            raise ValueError(f"field {found!r} {_NOT_READ[found]}")
        return row
    for name in ("rejected", "history", *_CALLS):
        if row.get(name):
            raise ValueError(f"field {name!r} would be lost, since only 'messages' are learned: leave it out")
    system = [_turn("system", row["system"])] if row.get("system") else []
    if system and any(isinstance(m, dict) and m.get("role") == "system" for m in talk):
        raise ValueError("field 'system' and a system message: which of the two is it? Leave one out")
    return {**row, "messages": [_message(m, i) for i, m in enumerate([*system, *talk])]}


def _talk(row: dict[str, Any]) -> list[Any] | None:
    """The turns of a row that has no `messages`."""
    if isinstance(turns := row.get("conversations", row.get("conversation")), list):
        return [_said(turn) for turn in turns]
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        asked = "\n\n".join(text for text in (row["instruction"], row.get("input")) if text)
        return [_turn("user", asked), _turn("assistant", row["output"])]
    if {"prompt", "completion"} <= row.keys():
        sides = (("user", row["prompt"]), ("assistant", row["completion"]))
        return [m for role, side in sides for m in (side if isinstance(side, list) else [_turn(role, side)])]
    return None


def _turn(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _said(turn: Any) -> Any:
    """One turn of ShareGPT's, with what else it holds."""
    if not (isinstance(turn, dict) and {"from", "value"} <= turn.keys()):
        return turn
    return {**turn, **_turn(turn["from"], turn["value"])}


def _message(message: Any, i: int) -> Any:
    """A message as the schema wants it; with its calls of tools it is refused."""
    if not isinstance(message, dict):
        return message
    if called := next((name for name in _CALLS if message.get(name)), None):
        raise ValueError(f"field 'messages[{i}].{called}' would be lost, since only text is learned: leave the row out")
    role, content = message.get("role"), message.get("content")
    found = {**message, "role": _ROLES.get(role, role) if isinstance(role, str) else role}
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        found["content"] = "".join(part["text"] for part in content)
    if found.get("train", found.get("training")) is False:
        found["weight"] = 0
    return found
