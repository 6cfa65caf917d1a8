"""Disk cache of responses: a small JSON file each, written on arrival, so that nothing is paid for twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from personalab import paths
from personalab.files import write

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOMLESS = (
    "Nothing was asked, since the reply could not be kept: free some space, set PERSONALAB_CACHE to a folder on "
    "another disk, or PERSONALAB_RESPONSE_CACHE=off to pay for replies that are not kept"
)


def request_key(request: Mapping[str, Any], occurrence: int) -> str:
    """SHA-256 of a request (endpoint, model, messages, limits, seed) and of how often it was asked before."""
    canonical = json.dumps({**request, "occurrence": occurrence}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_reply(key: str) -> str | None:
    """The response stored under `key`, if any. A damaged file counts as none, with a warning naming it."""
    if not _enabled():
        return None
    path = _path(key)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["content"]
        if not isinstance(content, str):
            raise TypeError("its content is not text")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(f"Asking again: the cached response {path} is damaged ({error!r}).", stacklevel=2)
        return None


def store_reply(key: str, body: Mapping[str, Any], content: str) -> None:
    """Keep a response, with its request for human readers. A disk that takes none is a warning: the answer is there."""
    if not _enabled():
        return
    path, text = _path(key), json.dumps({**body, "content": content}, indent=1)
    try:
        if _room(key).exists():
            with _room(key).open("r+b") as room:
                room.write(text.encode())
                room.truncate()
            _room(key).replace(path)
        else:
            write(path, text, sync=False)  # one that is lost is asked again
    except OSError as error:
        warnings.warn(f"Not cached: {path} cannot be written ({error}).", stacklevel=2)


@contextmanager
def claimed(key: str, room: int = 0) -> Iterator[None]:
    """While open, no other process or thread claims `key`: it waits, and then finds the reply in the cache.

    Where locks are impossible (some network drives) there is none.

    Args:
        room: bytes set aside for the reply, so that none is paid for that a full disk cannot keep.

    Raises:
        OSError: where the disk is full.
    """
    if not _enabled():
        yield
        return
    path = _path(key).with_suffix(".lock")
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _room(key).write_bytes(bytes(room))
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            _let_go(lock, key)
            raise OSError(error.errno, f"{_ROOMLESS} ({error.strerror})", str(path.parent)) from error
        warnings.warn(f"Another process may ask the same: {path} cannot be locked ({error}).", stacklevel=3)
    try:
        yield
    finally:
        _let_go(lock, key)


def _let_go(lock: FileLock, key: str) -> None:
    with suppress(OSError):
        _room(key).unlink(missing_ok=True)
    if lock.is_locked and _path(key).exists():
        with suppress(OSError):  # on Windows, while another waits for it
            Path(lock.lock_file).unlink()
    lock.release()


def _room(key: str) -> Path:
    return _path(key).with_suffix(".room")


def _enabled() -> bool:
    return os.environ.get("PERSONALAB_RESPONSE_CACHE", "on").lower() not in ("off", "0", "false", "no")


def _path(key: str) -> Path:
    return paths.cache_dir() / "responses" / key[:2] / f"{key}.json"
