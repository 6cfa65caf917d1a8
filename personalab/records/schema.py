"""Files checked against what they should hold: an error names the file, the line, the field and what is wrong."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from personalab.files import read_text

T = TypeVar("T")

_KEY_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*"(?P<colon>\s*:)?|[{}]')
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "dataclass_type": "an object",
}


class DataError(ValueError):
    """A data file that cannot be read as what it should be; the message names the file and the field."""


if TYPE_CHECKING:
    Turn = dict[str, str]
    WeightedTurn = dict[str, Any]
else:

    class Turn(TypedDict):
        """One message of a conversation."""

        role: Literal["system", "user", "assistant"]
        content: str

    class WeightedTurn(Turn, total=False):
        """A message that finetuning learns to write, or with weight 0 only reads, as in OpenAI's format."""

        weight: Literal[0, 1]


def is_learned(turn: WeightedTurn) -> bool:
    """Whether finetuning learns to write a message: an assistant's, with something in it, not of weight 0."""
    return turn["role"] == "assistant" and bool(turn["content"].strip()) and turn.get("weight") != 0


def read_as(path: Path | str, kind: type[T] | GenericAlias) -> T:
    """What a JSON file holds, as `kind`: a class with annotated fields, or a type such as `dict[str, str]`.

    Raises:
        DataError: if the file is missing, is not UTF-8 or JSON, a field is missing or of another type, or an object has
            a key twice.
    """
    return _parse(_read_text(Path(path)), kind, str(path), numbered=True)


@overload
def read_jsonl(path: Path | str) -> dict[str, dict[str, Any]]: ...
@overload
def read_jsonl(path: Path | str, kind: type[T]) -> dict[str, T]: ...
@overload
def read_jsonl(path: Path | str, kind: object) -> dict[str, Any]: ...
def read_jsonl(path: Path | str, kind: Any = dict[str, Any]) -> dict[str, Any]:
    """What a JSON Lines file holds, one `kind` a line (default: any object), by where it stands ("line 3").

    Raises:
        DataError: if the file is missing, or a line is not what it should be or has a key twice.
    """
    lines = _read_text(Path(path)).split("\n")
    found = {f"line {n}": line for n, line in enumerate(lines, start=1) if line.strip()}
    first = next(iter(found.values()), "").strip()
    if first.startswith("[") and not first.endswith("]"):
        raise DataError(f"{path} is one JSON list: JSON Lines has one object a line, so write each on its own.")
    return {where: _parse(line, kind, f"{path}, {where}") for where, line in found.items()}


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except ValueError as error:
        raise DataError(str(error)) from None


def _parse(content: str, kind: Any, where: str, numbered: bool = False) -> Any:
    try:
        found = _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise DataError(f"{where}: {_problem(error)}.") from None
    if repeated := repeated_key(content):
        key, line = repeated
        at = f"{where}, line {line}" if numbered else where
        raise DataError(f"{at}: key {key!r} comes twice in one object, and only one can count: remove the other.")
    return found


def repeated_key(content: str) -> tuple[str, int] | None:
    """The first key that an object of this valid JSON has twice, and its line; None if there is none."""
    objects: list[set[str]] = []
    for match in _KEY_OR_BRACE.finditer(content):
        if match[0] == "{":
            objects.append(set())
        elif match[0] == "}":
            objects.pop()
        elif match["colon"]:
            key = json.loads(match[0].removesuffix(match["colon"]))
            if key in objects[-1]:
                return key, content.count("\n", 0, match.start()) + 1
            objects[-1].add(key)
    return None


@functools.cache
def _adapter(kind: Any) -> Any:  # a TypeAdapter[kind], which beartype does not know
    return TypeAdapter(kind)


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in our words where we have any, else in pydantic's."""
    first = error.errors(include_url=False)[0]
    what, value, context = first["type"], first["input"], first.get("ctx", {})
    field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
    if what == "json_invalid":
        return f"not valid JSON ({context['error']})"
    if what in _WANTED and not field:
        return f"expected {_WANTED[what]}, found {type(value).__name__}"
    if what in _WANTED:
        says = f"must be {_WANTED[what]}, not {type(value).__name__}"
    elif what == "missing":
        says = "is missing"
    elif what == "literal_error":
        says = f"must be {context['expected']}, not {value!r:.80}"
    else:
        says = str(context.get("error") or first["msg"])
    return f"field {field!r} {says}" if field else says
