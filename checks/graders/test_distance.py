"""What comes from a submission's process is data: no class of theirs, no code, no message that says too much."""

from __future__ import annotations

import inspect
import io
import json
import math
import os
import pickle
import signal
import struct
import sys
import traceback
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch

import tests
from graders import harness
from graders.harness.cases import Case, Foreign, Raised
from graders.harness.distance import Said, observations, verdict
from graders.harness.expect import check
from graders.harness.judges import judged, shown
from graders.harness.leftovers import KEEPS
from graders.harness.paper import dumps, loads
from graders.harness.submission import OUT_OF_TIME, Step, silence
from graders.harness.trial import Trial


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def halves(n):
    for k in range(3, 3 + n):
        yield Case(
            f"halve({k})",
            lambda halve, k=k: halve(k),
            lambda found, k=k: check(found == k / 2, f"expected {k / 2}, found {found!r}."),
        )


def at_a_distance(work, n=2):
    return verdict(halves(n), loads(dumps(observations(halves(n), work))))


def test_right_and_wrong_work_is_told_apart_and_errors_are_the_message():
    assert at_a_distance(lambda k: k / 2) == ""
    assert at_a_distance(lambda k: 1.5) == "halve(4): expected 2.0, found 1.5."
    assert at_a_distance(lambda k: [][k]).startswith("halve(3): expected a result, found IndexError")
    assert verdict(halves(2), [1.5]) == "halve(4): your work ended the process here."


def test_a_number_that_lies_about_itself_becomes_what_it_is():
    assert at_a_distance(lambda k: Liar(-99)) == "halve(3): expected 1.5, found -99."
    (found,) = loads(dumps([Liar(-99)]))
    assert type(found) is int


def test_data_comes_back_as_it_was():
    shared = [1]
    leaf = torch.ones(2, requires_grad=True)
    values = [None, True, 2, 2.5, 1j, "a", b"b", (1,), {2}, frozenset([3]), {"k": shared}, shared, torch.float16]
    own = [Raised(("KeyError",), "k"), Foreign("f", "x"), Said("s")]
    found = loads(dumps([*values, np.arange(3), np.float64(2), leaf, *own]))
    assert found[: len(values)] == values and found[10]["k"] is found[11]
    array, number, tensor, *records = found[len(values) :]
    assert array.tolist() == [0, 1, 2] and isinstance(number, np.float64) and tensor.requires_grad
    assert records == [Raised(("KeyError",), "k"), Foreign("f", "x"), Said("s")]


def test_a_part_of_a_tensor_brings_no_more_than_itself():
    assert len(dumps([torch.zeros(1 << 20)[:1]])) < 1 << 12


class Attack:
    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.parametrize("payload", [pickle.dumps(Attack()), b"", b"PK\x03\x04", pickle.dumps([1])])
def test_bytes_that_are_no_data_are_refused(payload):
    with pytest.raises(ValueError, match="is no data"):
        loads(payload)


def test_a_pickle_inside_a_right_file_is_refused_too():
    buffer = io.BytesIO()
    torch.save([Attack()], buffer)
    with pytest.raises(ValueError, match="is no data"):
        loads(buffer.getvalue())


STEPS = [Step("solution", "f", "x"), Step("grader", "test_f", work="f", of="f"), Step("solution", "g", "y")]
STEPS.append(Step("grader", "test_g", work="g", of="g"))


def heard(*messages: object) -> Trial:
    """What is known after a process has said this and ended."""
    trial = Trial(STEPS, (5.0, 60.0))
    reader, writer = Pipe(duplex=False)
    for message in messages:
        writer.send_bytes(message if isinstance(message, bytes) else b"J" + json.dumps(message).encode())
    writer.close()
    trial.listen(reader)
    return trial


def test_a_process_that_ends_loses_the_exercise_it_was_at():
    trial = heard({"at": 0}, {"at": 1}, b"Oseen", {"at": 2})
    assert trial.seen == {1: b"seen"} and set(trial.lost) == {2, 3} and trial.done()
    assert trial.lost[3] == "g: your code ends the process that runs it."
    trial = heard({"at": 0}, {"at": 1}, {"at": 2}, {"at": 3}, b"Oseen", {"end": True})
    assert set(trial.lost) == {1} and set(trial.seen) == {3}


def test_what_a_submission_did_is_named_and_time_is_too():
    trial = heard({"at": 0}, {"did": "replaces tests"})
    assert trial.lost[1] == "f: your code replaces tests, and nothing but what the exercise asks for counts."
    assert "5 s of computing" in heard({"at": 0}, {"ended": OUT_OF_TIME}).lost[1]


@pytest.mark.parametrize("said", [{"ended": -signal.SIGKILL}, {"over": True}, {"did": KEEPS}, None])
def test_whichever_limit_is_met_first_the_words_are_the_same(said):
    trial, (reader, writer) = Trial(STEPS, (0.1, 60.0)), Pipe(duplex=False)
    for message in [{"at": 0}, *([said] if said else [])]:  # without one, it waits in vain
        writer.send_bytes(b"J" + json.dumps(message).encode())
    if said:
        writer.close()
    trial.listen(reader)
    assert trial.lost[1].startswith("f: your code takes longer than 0 s of computing or 0 s by the clock, or more than")


@pytest.mark.parametrize("word", ["", " ", "\n"])
def test_an_error_without_words_is_no_pass(word):
    assert verdict(halves(2), [Said(word)]) == "halve(3): refused."
    assert judged(lambda: halves(2), dumps([Said(word)]), 60, 1 << 32) == "halve(3): refused."


def test_the_work_finds_no_judge():
    held = []

    def curious(k):
        held.extend(f.f_locals["case"].judge for f, _ in traceback.walk_stack(None) if "case" in f.f_locals)
        return k / 2

    assert at_a_distance(curious) == "" and held and set(held) == {None}


def test_a_verdict_costs_no_more_than_it_may():
    def endless():
        yield Case("x", lambda work: work(), lambda found: check(sum(iter(int, 1)) == 0, "expected an end."))

    assert judged(endless, dumps([1]), 1, 1 << 32).startswith("no verdict within 1 s and 4096 MiB")
    assert shown("\ud800\x1b[2J\n" + "é" * 9999) == "\\ud800\\x1b[2J\n" + "é" * 3994 + "…"


DEEP = b"J" + b"[" * 20000
BIG = b"J" + json.dumps({"did": "x" * 40000}).encode()
SKIPS = {"at": 2}  # not the next


@pytest.mark.parametrize("message", [b"Jnot JSON", b"J[]", {"at": 0}, {"at": 99}, {"at": "2"}, DEEP, BIG, SKIPS])
def test_messages_that_make_no_sense_cost_the_step(message):
    trial = heard({"at": 0}, message)
    assert "meddles with what is sent" in trial.lost[1] and 3 not in trial.lost


@pytest.mark.parametrize(
    ("sent", "lost"), [(struct.pack("!i", 99) + b"O", "takes longer than"), (struct.pack("!i", -1) + b"O", "meddles")]
)
def test_nobody_waits_for_the_rest_of_a_message(sent, lost):
    trial, (reader, writer) = Trial(STEPS, (0.1, 60.0)), Pipe(duplex=False)
    writer.send_bytes(b'J{"at": 0}')
    os.write(writer.fileno(), sent)
    trial.listen(reader)
    assert lost in trial.lost[1] and 3 not in trial.lost


def test_no_module_of_the_harness_takes_the_name_of_a_function():
    functions = {name for name, value in vars(harness).items() if callable(value)}
    modules = {path.stem for path in Path(harness.__file__).parent.glob("*.py")}
    assert functions and not functions & modules, "whichever is imported last hides the other"


def test_what_a_submission_prints_goes_nowhere_and_is_no_error():
    child = os.fork()
    if child == 0:
        try:
            silence()
            os.closerange(3, 1 << 10)
            print("x" * (1 << 20), flush=True)
            print("x", file=sys.stderr, flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", sorted(tests.__all__))
def test_no_observation_passes_for_want_of_anything_to_compare(name):
    """What a submission would send to get its points without any work, whatever the cases are."""
    models = {"model": None, "tokenizer": None, "d_model": 32, "num_layers": 4}
    cases = getattr(tests, name).cases
    given = [models.get(parameter) for parameter in inspect.signature(cases).parameters]
    empty = [
        None,
        [],
        {},
        (),
        "",
        0,
        True,
        math.nan,
        torch.full((1,), math.nan),
        Raised(("ValueError",), "x"),
        Said(""),
    ]
    for forged in empty:
        assert verdict(cases(*given), [forged] * 400), f"{name}: {forged!r} for every case"
