"""Writing files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write all or nothing, text with LF on every platform."""
    write_all({path: content})


def write_all(files: dict[Path, str | bytes]) -> None:
    """Write every draft first and put them in place last: a full disk or a kill before that changes no file."""
    drafts = {path: path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path].write_bytes(content.encode() if isinstance(content, str) else content)
        for path, draft in drafts.items():
            draft.replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def keep_copy(path: Path, folder: Path) -> Path:
    """Copy the file as it is to `folder`, under a name that is free (or already holds just that); returns the copy."""
    content, number, copy = path.read_bytes(), 1, folder / path.name
    while copy.exists() and copy.read_bytes() != content:
        number += 1
        copy = folder / f"{path.stem}-{number}{path.suffix}"
    write(copy, content)
    return copy
