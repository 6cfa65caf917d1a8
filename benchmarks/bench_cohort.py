"""Grades a cohort that nobody taught, twice: right, wrong, partial, broken and hostile submissions of one section.

Run it with `make bench`, or `python -m benchmarks.bench_cohort [section] [notebooks]`; writes the section's part of
`benchmarks/results/cohort.json`: every mistake in a grade, whether both gradings agree, and how long they took. The
first grading is stopped when it has begun, as by a user, and goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

from checks import cohort
from checks.hostile import ATTACKED, MARK, PLANTED, hostile
from personalab.course import grading
from personalab.course.marking import Settings
from personalab.files import write
from personalab.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "cohort.json"
HONEST = 12  # right, wrong, partial and broken ones at least
LIMITS = {"seconds": 12, "notebook_seconds": 900, "memory": 2 << 30}


class Stopped(Exception):
    """As Ctrl-C would."""


def main(section: str = "1", notebooks: int = 60, tiny: bool = True) -> int:
    """Returns 1 if a grade was wrong, or another one the second time."""
    folder = ROOT / "exercises"
    course = cohort.Course(folder, section)
    attacks = [*hostile(course, ATTACKED[section])]
    made = [*cohort.honest(course, max(HONEST, notebooks - len(attacks)), seed=0), *attacks]
    settings = Settings(folder=folder, section=section, tiny=tiny, jobs=2, **LIMITS)
    load, started = os.getloadavg(), _busy()
    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, PLANTED):
        handed_in = Path(name, "handed_in")
        cohort.write_all(made, handed_in)
        resumed = _stop_after(3, [handed_in], Path(name, "0", "report.csv"), settings)
        first = grading.grade([handed_in], Path(name, "0", "report.csv"), settings)
        settings = replace(settings, draw=first.draws[section])
        second = grading.grade([handed_in], Path(name, "1", "report.csv"), settings)
    (busy, idle), runs = (now - before for now, before in zip(_busy(), started, strict=True)), [first, second]
    result = _result(made, runs) | {
        "model": "tiny" if tiny else "the notebook's",
        "graded_before_the_stop": resumed,
        "jobs": settings.jobs,
        "cores": os.cpu_count(),
        "load_before_and_after": [round(x[0], 1) for x in (load, os.getloadavg())],
        "cores_busy_with_anything": round(os.cpu_count() * busy / (busy + idle), 2),
        "protection": first.protection,
        "written_outside": MARK.exists(),
    }
    saved = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    write(RESULTS, json.dumps(saved | {section: result}, indent=1, sort_keys=True) + "\n")
    print(json.dumps(result, indent=1))
    return int(bool(result["wrong_grades"] or result["other_points"] or MARK.exists()))


def _result(made: Sequence[cohort.Simulated], runs: Sequence[grading.Run]) -> dict[str, object]:
    first, second = ({g.path: g for g in run.graded} for run in runs)
    kinds = {one.student: one.kind for one in made}
    by_kind: dict[str, dict[str, float]] = {}
    for kind in sorted(set(kinds.values())):
        own = [g for run in runs for g in run.graded if kinds[g.student] == kind and not g.remark]
        computed, clock = [g.computed for g in own], [g.seconds for g in own]
        by_kind[kind] = {
            "notebooks": sum(k == kind for k in kinds.values()),
            "mean_seconds_computing": round(statistics.mean(computed), 1),
            "mean_seconds_by_the_clock": round(statistics.mean(clock), 1),
            "most_seconds_by_the_clock": round(max(clock), 1),
        }
    return {
        "notebooks": len(made),
        "hostile": [one.name for one in made if one.kind == "hostile"],
        "wrong_grades": cohort.mistakes(made, {one.student: one for one in runs[0].graded}),
        "graded_again": len(second),
        "other_points": sorted(g.student for path, g in second.items() if g.points != first[path].points),
        "other_comments": sorted(g.student for path, g in second.items() if g.comments != first[path].comments),
        "by_kind": by_kind,
        "seconds_of_each_grading": [round(run.seconds, 1) for run in runs],
    }


def _stop_after(n: int, paths: list[Path], report: Path, settings: Settings) -> int:
    """Grade until n notebooks are done and stop; how many were kept."""
    real, done = grading.State.add, threading.Semaphore(n)

    def add(state: grading.State, graded: grading.Graded) -> None:
        if graded.comments and not done.acquire(blocking=False):
            raise Stopped
        real(state, graded)

    with mock.patch.object(grading.State, "add", add), contextlib.suppress(Stopped):
        grading.grade(paths, report, settings)
    return sum(bool(row["comments"]) for row in json.loads(report.with_suffix(".state.json").read_text())["graded"])


def _busy() -> tuple[int, int]:
    """Ticks that all cores together have been busy, and idle, with whatever runs here."""
    user, nice, system, idle, wait, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + soft + steal, idle + wait


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2], *map(int, sys.argv[2:3])))
