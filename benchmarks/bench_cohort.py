"""Grades a cohort that nobody taught, twice: right, wrong, partial, broken and hostile submissions of one section.

Run it with `make bench`, or `python -m benchmarks.bench_cohort [section] [notebooks]`; writes
`benchmarks/results/cohort.json`: every mistake in a grade, whether both gradings agree, and how long they took.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from checks import cohort
from personalab.course import grading
from personalab.course.marking import Settings
from personalab.files import write
from personalab.paths import ROOT

ATTACKED = {"1": "test_characterize_axis", "2": "test_extract_interventions", "4": "test_trait_similarity_matrix"}
LIMITS = (20, 900)  # seconds of computing for an exercise, of waiting for a notebook


def main(section: str = "1", notebooks: int = 60, tiny: bool = True) -> int:
    """Returns 1 if a grade was wrong, or another one the second time."""
    folder = ROOT / "exercises"
    course = cohort.Course(folder, section)
    hostile = [*cohort.hostile(course, ATTACKED[section])]
    made = [*cohort.honest(course, max(4, notebooks - len(hostile)), seed=0), *hostile][:notebooks]
    settings = Settings(folder=folder, tiny=tiny, jobs=2, seconds=LIMITS[0], notebook_seconds=LIMITS[1])
    with tempfile.TemporaryDirectory() as name:
        handed_in = Path(name, "handed_in")
        cohort.write_all(made, handed_in)
        runs = []
        for i in range(2):
            draw = runs[0].draws[section] if runs else None
            settings = Settings(**vars(settings) | {"draw": draw})
            runs.append(grading.grade([handed_in], Path(name, f"{i}", "report.csv"), settings))
    first, second = ([(g.path, g.points, g.comments) for g in run.graded] for run in runs)
    wrong = cohort.mistakes(made, {one.student: one for one in runs[0].graded})
    kinds = {one.name.replace(" ", "_"): one.kind for one in made}
    computed = {kind: [g.computed for g in runs[0].graded if kinds[g.student] == kind] for kind in set(kinds.values())}
    result = {
        "section": section,
        "notebooks": len(made),
        "model": "tiny" if tiny else "the notebook's",
        "wrong_grades": wrong,
        "same_twice": [(p, q) for p, q, _ in first] == [(p, q) for p, q, _ in second],
        "same_comments": first == second,
        "seconds": [round(run.seconds, 1) for run in runs],
        "jobs": settings.jobs,
        "cores": os.cpu_count(),
        "load_before": [round(x, 1) for x in os.getloadavg()],
        "computing_a_notebook": {k: {"n": len(v), "mean": sum(v) / len(v)} for k, v in sorted(computed.items())},
        "protection": runs[0].protection,
    }
    write(ROOT / "benchmarks" / "results" / "cohort.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(bool(wrong) or not result["same_twice"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2], *map(int, sys.argv[2:3])))
