"""What a second thread costs graders on a busy machine: a section's reference solutions, graded in one thread and in
two, while two other processes keep the cores busy.

Run it with `make bench`. Sections in one thread are timed whole; the ratio is of one grader of each, the same
solutions taking turns, since a section in two threads can take minutes.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest import mock

import torch

import tests
from checks.bank.grading import grade, reference_solutions
from personalab.setup import machine

# By section: a grader that runs models, and takes well under a second in one thread.
SAMPLES = {
    "section_1": "test_extract_response_activations",
    "section_2": "test_compute_turn_projections",
    "section_3": "test_extract_all_layer_activations",
    "section_4": "test_last_prompt_projections",
}


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """`n` other processes that do nothing, at full speed."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(names: list[str], handed: dict[str, object], threads: int) -> float:
    """Wall-clock seconds for the reference solutions of some exercises."""
    torch.set_num_threads(threads)
    ours = contextlib.nullcontext if threads > 1 else machine.one_thread
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(machine, "one_thread", ours):
        for name in names:
            grade(name, handed[name])
    return time.perf_counter() - start


def main() -> int:
    handed = reference_solutions()

    sections: dict[str, list[str]] = {section: [] for section in SAMPLES}
    for name in handed:
        sections[getattr(tests, name).__module__.split(".")[1].removesuffix("_bonus")].append(name)
    for name in SAMPLES.values():  # what is built once a process (tokenizers) is nobody's cost
        seconds([name], handed, 1)
    with busy(2):
        for section, names in sections.items():
            whole = seconds(names, handed, 1)
            one, two = (min(seconds([SAMPLES[section]], handed, n) for _ in range(3)) for n in (1, 2))
            print(
                f"{section}: {len(names)} graders in {whole:.1f} s in one thread; {SAMPLES[section]}: "
                f"{one:.2f} s in one thread, {two:.2f} s in two, ratio {two / one:.1f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
