"""What saved outputs must not hold: progress bars, widgets, this machine's paths, anybody's keys."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from nbformat import NotebookNode, from_dict

from personalab.files import dotenv_text
from personalab.paths import ROOT, cache_dir

PROGRESS_BAR = re.compile(r"[^\n]*?\[\d+:\d\d[^\]\n]*, [^\]\n]*(?:/s|s/)[^\]\n]*\]")  # as tqdm draws it
WIDGET = "application/vnd.jupyter.widget-view+json"
SECRET = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD)$")  # names of settings that nobody may see
CELL_FILE = re.compile(r"(?:[A-Za-z]:)?[\\/][^\s\"'<>()]*ipykernel_\d+[\\/]\d+\.py")  # holds a process id


def clean_outputs(nb: NotebookNode, root: Path = ROOT, problems: Sequence[str] = ()) -> list[str]:
    """Make the outputs of `nb` fit to commit, in place.

    Returns `problems` scrubbed likewise, and one more for each key, token or password shown (of
    the environment or `.env`; also the password of a URL).
    """
    leaked: set[str] = set()
    scrub = _scrubber(root, leaked)
    for cell in (cell for cell in nb.cells if cell.cell_type == "code"):
        kept = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                lines = PROGRESS_BAR.sub("", output.text).splitlines(keepends=True)
                output.text = "".join(line for line in lines if line.strip())
            if output.get("text") != "" and WIDGET not in output.get("data", {}):
                kept.append(from_dict(_map_strings(output, scrub)))
        cell.outputs = kept
    scrubbed = [scrub(problem) for problem in problems]
    return scrubbed + [f"An output shows the value of {name}: do not print it." for name in sorted(leaked)]


def _scrubber(root: Path, leaked: set[str]) -> Callable[[str], str]:
    """A function that replaces paths and the values of keys, and adds the names of those keys to `leaked`."""
    in_file = re.findall(r"^\s*(?:export\s+)?(\w+)\s*=\s*[\"']?([^\"'\s]+)", dotenv_text(root), re.M)
    named = [*os.environ.items(), *in_file]
    # Shorter values are placeholders such as "none" or "EMPTY".
    keys = {value: name for name, value in named if SECRET.search(name) and len(value) >= 8}
    keys |= {password: name for name, value in named if (password := _password(value))}
    places = {str(Path.home()): "~", str(cache_dir()): "~/.cache/personalab", str(root): "."}
    if sys.prefix != sys.base_prefix:
        places[sys.prefix] = ".venv"
    longest_first = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True) if place != "/")
    place = re.compile(rf"(^|[^\w.]|\x1b\[[\d;]*m)({longest_first})(?![\w-])")

    def scrub(text: str) -> str:
        for value, name in keys.items():
            if value in text:
                leaked.add(name)
                text = text.replace(value, f"<{name}>")
        return place.sub(lambda match: match[1] + places[match[2]], CELL_FILE.sub("<cell>", text))

    return scrub


def _password(value: str) -> str | None:
    """The password in a URL such as https://me:secret@host/v1."""
    try:
        return urlsplit(value).password if "://" in value else None
    except ValueError:  # no URL after all
        return None


def _map_strings(value: object, change: Callable[[str], str], key: str = "") -> object:
    if isinstance(value, Mapping):
        return {key: _map_strings(item, change, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return change(value) if isinstance(value, str) and key not in ("image/png", "image/jpeg") else value
