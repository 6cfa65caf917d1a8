"""Files: written whole or not at all, read as editors save them."""

from __future__ import annotations

import codecs
import os
import threading
from pathlib import Path

from personalab.paths import SHIPPED

_POINTER = b"version https://git-lfs"


def write(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write all or nothing, text as UTF-8 with LF on every platform, in a folder that is made if there is none.

    Args:
        sync: wait for the disk before the file gets its name, so that also a power cut leaves the old one or all of
            the new one.
    """
    write_all({path: content}, sync=sync)


def write_all(files: dict[Path, str | bytes], *, sync: bool = True) -> None:
    """Write every draft first and put them in place last: a full disk or a kill before that changes no file.

    Raises:
        PermissionError: for a file of the installed package.
    """
    if shipped := [path for path in files if path.absolute().is_relative_to(SHIPPED)]:
        raise PermissionError(
            f"{shipped[0]} belongs to the installed package, which stays as it is: name another folder, or work in a "
            "clone of the repository."
        )
    own = f"{os.getpid()}-{threading.get_ident()}"  # neither another process nor another thread writes our drafts
    drafts = {path: path.with_name(f"{path.name}.{own}.tmp") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with drafts[path].open("wb") as draft:
                draft.write(content.encode() if isinstance(content, str) else content)
                if sync:
                    draft.flush()
                    os.fsync(draft.fileno())
        for path in files:
            drafts[path].replace(path)
    finally:
        for path in drafts.values():
            path.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file as editors save it: UTF-8, with or without a mark in front, or UTF-16 with its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another encoding, naming the file and the first byte that is wrong; for a pointer of Git LFS.
    """
    check_whole(path)
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}): save it as UTF-8.") from None


def check_whole(path: Path) -> None:
    """Raise ValueError for a pointer that Git LFS leaves in place of a file which was not fetched."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path} is a pointer of Git LFS, not the file: run `git lfs pull` in its clone.")


def dotenv_text(root: Path) -> str:
    """The text of `.env` in `root`, "" if there is none; Windows editors save UTF-8 with a mark, or UTF-16.

    Raises:
        ValueError: if it is neither UTF-8 nor, with its byte order mark, UTF-16.
    """
    file = root / ".env"
    return read_text(file) if file.exists() else ""


def keep_copy(path: Path, folder: Path) -> Path:
    """Copy the file as it is to `folder`, under a name that is free (or already holds just that); returns the copy."""
    content, number, copy = path.read_bytes(), 1, folder / path.name
    while copy.exists() and copy.read_bytes() != content:
        number += 1
        copy = folder / f"{path.stem}-{number}{path.suffix}"
    write(copy, content)
    return copy
