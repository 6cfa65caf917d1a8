"""Results on record: what a run measured, with n and interval."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

from personalab.files import write
from personalab.records.schema import DataError, read_as
from personalab.setup.venv import exclusive_lock
from personalab.tiers import GLOBAL_SEED, current_tier

RECORD = "PERSONALAB_RECORD"  # environment: the JSON file in which `record` collects results; unset: print only


def record(
    key: str,
    value: SupportsFloat,
    n: int | None = None,
    ci: Sequence[SupportsFloat] | None = None,
    *,
    model: str | None = None,
) -> None:
    """Print a result; in a run of the solutions, also collect it in the file that `PERSONALAB_RECORD` names.

    Args:
        key: "section_1/name" (section 4's finetuning: "bonus/name"; others: "organism/name", "coherence/name").
        n: number of units behind the value (responses, questions, …).
        ci: 95 % interval `(low, high)`.
        model: id of the model measured (default: the tier's persona model).

    Raises:
        ValueError: if the value or the interval is not finite, or the key has no section.
    """
    section, _, name = key.partition("/")
    if not (section and name):
        raise ValueError(f"Key {key!r} must look like 'section_1/name'.")
    numbers = [float(value), *map(float, ci or ())]
    if not all(map(math.isfinite, numbers)) or (ci is not None and len(ci) != 2):
        raise ValueError(
            f"{key}: value {value!r} and interval {ci!r} must be finite numbers, the interval (low, high)."
        )
    entry = {
        "value": numbers[0],
        "n": None if n is None else int(n),
        "ci": numbers[1:] or None,
        "section": section,
        "tier": current_tier().name,
        "model": model or current_tier().persona_model,
        "seed": GLOBAL_SEED,
    }
    print(f"{key}: {entry_text(entry)}")
    if target := os.environ.get(RECORD):
        _merge(Path(target), {key: entry})


def entry_text(entry: dict[str, Any]) -> str:
    """`0.87 [0.80, 0.91], n = 24`, leaving out what an entry lacks."""
    text = _number(entry["value"])
    if entry["ci"]:
        text += f" [{_number(entry['ci'][0])}, {_number(entry['ci'][1])}]"
    return text + (f", n = {entry['n']}" if entry["n"] is not None else "")


def _number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _merge(path: Path, entries: dict[str, Any]) -> None:
    with one_writer(path):
        write(path, json.dumps(read_json(path) | entries, indent=2, sort_keys=True) + "\n")


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """While open, other processes that change this file through us wait: what is read and written in it is all there.

    The lock is a file among the user's temporary ones, so that nothing appears beside the results.
    """
    user = getattr(os, "getuid", lambda: "")()
    folder = Path(tempfile.gettempdir(), f"personalab-locks-{user}")
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with exclusive_lock(folder / name, waiting_for=f"another process that writes {path.name}"):
        yield


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds, nothing if there is none.

    Raises:
        DataError: if it is damaged; it stays as it is.
    """
    try:
        return read_as(path, dict[str, Any]) if path.exists() else {}
    except DataError as error:
        raise DataError(f"{error} Put its last whole version back, or move it away.") from None


def merge_json(path: Path, new: Mapping[str, Any]) -> None:
    """Put `new` into the JSON file, in place of all old keys that begin alike (up to the first `/`)."""
    with one_writer(path):
        write(path, merged_json(path, new))


def merged_json(path: Path, new: Mapping[str, Any]) -> str:
    """The text of the JSON file with `new` in place of all old keys that begin alike."""
    families = {key.split("/")[0] for key in new}
    merged = {key: value for key, value in read_json(path).items() if key.split("/")[0] not in families} | dict(new)
    return json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def compare(own: dict[str, Any], recorded: dict[str, Any], shown: int = 5) -> str:
    """How many of your results lie inside the recorded 95 % intervals, and the first that don't, one line each.

    Empty if the two have no key with an interval in common.
    """
    both = {key: recorded[key] for key in sorted(own) if recorded.get(key, {}).get("ci")}
    outside = [key for key, entry in both.items() if not entry["ci"][0] <= own[key]["value"] <= entry["ci"][1]]
    if not both:
        return ""
    lines = [f"inside the recorded interval: {len(both) - len(outside)} of {len(both)}"]
    lines += [f"  {key}: {_number(own[key]['value'])}, recorded {entry_text(recorded[key])}" for key in outside[:shown]]
    if len(outside) > shown:
        lines.append(f"  and {len(outside) - shown} more")
    return "\n".join(lines)
