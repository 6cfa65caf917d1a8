"""Command line: `python -m personalab <command>`. The Makefile's targets are one-line calls of it."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from personalab import __version__
from personalab.setup import venv
from personalab.setup.venv import ROOT, SetupError, run_child

FAILED = 1
INTERRUPTED = 130  # the shell's convention: 128 + SIGINT

T = TypeVar("T")

_LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run()"  # it has no module to run
# A learner may have worked in them; what the course puts there is linted by checks/course/test_course.py.
_SKIP_NOTEBOOKS = ("--extend-exclude", "exercises,solutions,workbook")


def setup(args: argparse.Namespace) -> int:
    """Make the environment; fetch and convert the embedded models unless the current tier does without."""
    from personalab import tiers
    from personalab.setup.machine import dtype_name

    _ensure_weights()
    print(f"Computes in {_setting(lambda: dtype_name(tiers.current_tier().dtype))} (PERSONALAB_DTYPE changes that).")
    print("Ready. Next: python3 -m personalab run   (or: make run)")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Print what this machine has, which tier fits it, and what is missing."""
    from personalab import tiers
    from personalab.setup import doctor as report
    from personalab.setup.machine import dtype_name

    if args.dtype:
        print(_setting(lambda: dtype_name(tiers.current_tier().dtype)))
        return 0
    return report.main()


def run(args: argparse.Namespace) -> int:
    """Execute the solution notebooks into runs/; nothing that git tracks changes."""
    from personalab import tiers
    from personalab.course import running

    budget = args.budget or _setting(tiers.budget)
    _setting(lambda: running.chosen(args.section, ROOT))
    _ensure_weights()
    return running.execute(args.section, budget)


def record(args: argparse.Namespace) -> int:
    """For maintainers: execute the solutions in float32 and replace what the repository keeps of them."""
    from personalab.course import recording

    _ensure_weights()
    return _setting(lambda: recording.record(args.section, seed=args.seed))


def test(args: argparse.Namespace) -> int:
    """Lint, types, imports, drift, then the pytest suite. All run; the exit code is the first failure's."""
    from personalab.setup import weights

    weights.SENTENCE_ENCODER.ensure()  # the judge's checks read real text with it
    selection = [] if args.all else ["-m", "not slow"]
    return _run_all(
        {
            "Lint": partial(_module, "ruff", "check", *_SKIP_NOTEBOOKS),
            "Format": partial(_module, "ruff", "format", "--check", *_SKIP_NOTEBOOKS),
            "Types": partial(_module, "mypy"),
            "Imports": partial(run_child, [sys.executable, "-c", _LINT_IMPORTS], cwd=ROOT),
            "Drift": partial(_module, "personalab", "notebooks", "--check"),
            "Tests": partial(_module, "pytest", *selection),
        }
    )


def lab(args: argparse.Namespace) -> int:
    """Open JupyterLab on workbook/, your own copy of exercises/, after bringing it up to date."""
    from personalab.course import workbook

    try:
        for line in workbook.update(ROOT):
            print(line, flush=True)
    except RuntimeError as error:  # a merge that would lose words
        raise SetupError(str(error)) from error
    _ensure_weights()
    return run_child([sys.executable, "-m", "jupyter", "lab"], cwd=workbook.folder(ROOT))


def notebooks(args: argparse.Namespace) -> int:
    """Regenerate exercises/ and solutions/ from instructions/, or say which files differ."""
    from personalab.course import notebooks as pipeline

    for folder, build in ((args.nbgrader, pipeline.build_nbgrader), (args.release, pipeline.build_release)):
        if folder:
            print(*(f"wrote {path}" for path in build(folder)), sep="\n")
            return 0
    try:
        yours = pipeline.learners_cells(ROOT) if args.check else {}
        changed = [path.relative_to(ROOT).as_posix() for path in pipeline.build(check=args.check, root=ROOT)]
    except (ValueError, RuntimeError) as error:
        raise SetupError(str(error)) from error
    for path, cells in yours.items():
        print(f"{path.relative_to(ROOT).as_posix()}: yours, kept: {', '.join(cells)}")
    if args.check and changed:
        advice = "Not what their sources give (run python3 -m personalab notebooks):"
        print(advice, *changed, sep="\n  ", file=sys.stderr)
        return FAILED
    print("\n".join(f"wrote {path}" for path in changed) or "Every notebook matches its source.")
    return 0


def judge(args: argparse.Namespace) -> int:
    """Score the answers in a JSON Lines file with the embedded judge."""
    from personalab.judging import rows, scoring
    from personalab.records.schema import read_jsonl

    try:
        if args.output.resolve() == args.input.resolve():
            raise SetupError(f"--output is the same file as --input, {args.input}: name another.")
        rubric = rows.parse_rubric(args.rubric)
        table = read_jsonl(args.input)
        for where, row in table.items():
            rows.check_row(rubric, row, f"{args.input}, {where}")
        scores = scoring.score_responses(rubric, list(table.values()))
        rows.write_rows(args.output, [row | {"score": s} for row, s in zip(table.values(), scores, strict=True)])
    except ValueError as error:
        raise SetupError(str(error)) from error
    print(f"{len(scores)} rows scored, {scores.count(None)} of them refusals: {args.output}")
    return 0


def faults(args: argparse.Namespace) -> int:
    """Count what is lost or paid twice under faults, kills, full disks and damaged files; some minutes, no weights."""
    from personalab.studies import faults as study

    return (
        0
        if _setting(lambda: study.make(args.requests, args.kills, seed=args.seed, on_record=args.on_record))
        else FAILED
    )


def bench(args: argparse.Namespace) -> int:
    """Run every benchmarks/bench_*.py; the first failure's exit code is returned."""
    _ensure_weights()
    scripts = sorted((ROOT / "benchmarks").glob("bench_*.py"))
    return _run_all({script.stem: partial(_module, f"benchmarks.{script.stem}") for script in scripts})


def clean(args: argparse.Namespace) -> int:
    """Remove this folder's environment, runs and caches; your artifacts/ only with --all, cache and workbook/ never."""
    here = ["runs", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".import_linter_cache", ".venv.lock"]
    if args.all:  # what your runs left, not the committed reference
        here += [f"artifacts/{p.name}" for p in (ROOT / "artifacts").glob("*") if p.name != "reference"]
    anywhere = ["__pycache__", ".ipynb_checkpoints"]
    doomed = [ROOT / name for name in here]
    kept = {venv.VENV, ROOT / "workbook"}
    doomed += [p for name in anywhere for p in ROOT.rglob(name) if not kept & {*p.parents}]
    for path in filter(Path.exists, [venv.VENV, *doomed]):
        print(f"removing {path.relative_to(ROOT)}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 0


# What made the committed data, and makes it again: a command's module, whose `make` takes the options.
MAKERS = {
    "capping": ("studies.capping", "Make the tier's capping configuration: minutes on the cpu tier."),
    "capping-cost": ("studies.capping_cost", "Measure what the chosen caps cost; five minutes on the cpu tier."),
    "transcripts": ("studies.conversations", "Hold the scripted conversations of assistant-axis/scenarios.json."),
    "trait-vectors": ("studies.contrast", "Make trait vectors: two minutes a trait on the cpu tier."),
    "organism": ("studies.organism", "Finetune the trait organism: 33 minutes on two cores."),
    "organism-report": ("studies.organism_report", "Measure the trait organism: 25 minutes."),
    "sae": ("studies.sae_training", "Train the sparse autoencoder: nine minutes on two cores."),
    "finetune": ("own_data", "Finetune on your own JSON Lines, or by a configuration: two minutes."),
    "finetuning-study": ("studies.finetuning_study", "Finetune on 24 datasets and measure: an hour; resumes."),
    "judge-fit": ("judging.fit", "Fit the embedded judge's heads on the labelled examples."),
    "coherence": ("studies.coherence", "Fit the coherence that reads, and measure it: six minutes."),
}


def make(args: argparse.Namespace) -> int:
    """Run one of the `MAKERS`."""
    module = importlib.import_module(f"personalab.{MAKERS[args.command][0]}")
    _ensure_weights()
    options = {name: value for name, value in vars(args).items() if name not in ("command", "call", "enter")}
    _setting(lambda: module.make(**options))
    return 0


def _ensure_weights() -> None:
    from personalab import tiers
    from personalab.setup import weights

    if _setting(tiers.current_tier).embedded:
        for model in weights.MODELS:
            model.ensure()


def _setting(read: Callable[[], T]) -> T:
    """A setting from the environment; a wrong value becomes one line instead of a traceback."""
    try:
        return read()
    except ValueError as error:
        raise SetupError(str(error)) from error


def _module(name: str, *arguments: str) -> int:
    return run_child([sys.executable, "-m", name, *arguments], cwd=ROOT)


def _run_all(steps: Mapping[str, Callable[[], int]]) -> int:
    """Run every step under its title; the first non-zero exit code, after naming the failed ones."""
    failed = {}
    for title, step in steps.items():
        print(f"\n-- {title}", flush=True)
        if code := step():
            failed[title] = code
    if failed:
        print(f"\nFailed: {', '.join(failed)}.", file=sys.stderr)
    return next(iter(failed.values()), 0)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m personalab", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    for command in (setup, doctor, run, record, test, lab, notebooks, judge, faults, bench, clean):
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(call=command, enter=venv.ensure_env)
        _add_options(sub, command.__name__)
    for name, (_, text) in MAKERS.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(call=make, enter=venv.ensure_env)
        _add_maker_options(sub, name)
    return top


def _add_options(sub: argparse.ArgumentParser, command: str) -> None:
    if command == "run":
        sub.add_argument("--section", metavar="N", help="only this section, 4b for the bonus of 4 (default: all)")
        sub.add_argument("--budget", choices=("full", "quick"), help="default: PERSONALAB_BUDGET, else full")
    elif command == "record":
        sub.add_argument("--section", metavar="N", help="only this section, 4b for the bonus of 4 (default: all)")
        sub.add_argument("--seed", type=int, default=0, help="not 0: other answers; results beside those on record")
    elif command == "notebooks":
        sub.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
        sub.add_argument("--nbgrader", type=Path, metavar="DIR", help="write nbgrader's source notebooks there instead")
        sub.add_argument("--release", type=Path, metavar="DIR", help="write exercises without solutions there instead")
    elif command == "test":
        sub.add_argument("--all", action="store_true", help="the slow tests too")
    elif command == "judge":
        sub.add_argument("--rubric", required=True, help="trait:NAME, trait:ARTIFACT.json, role, delusion or coherence")
        sub.add_argument("--input", type=Path, required=True, metavar="FILE", help="JSON Lines to score")
        sub.add_argument("--output", type=Path, required=True, metavar="FILE", help="the same rows with a score")
    elif command == "faults":
        sub.add_argument("--requests", type=int, default=1000, metavar="N", help="to the faulty server (default: 1000)")
        sub.add_argument("--kills", type=int, default=50, metavar="N", help="in all (default: 50)")
        sub.add_argument("--seed", type=int, default=0, help="of the faults and of the moments of the kills")
        sub.add_argument("--record", dest="on_record", action="store_true", help="write benchmarks/results/faults.json")
    elif command == "clean":
        sub.add_argument("--all", action="store_true", help="your artifacts/ too")
    elif command == "doctor":
        sub.add_argument("--dtype", action="store_true", help="print the dtype that models are loaded in, and no more")
    if command in ("test", "notebooks", "record"):
        sub.set_defaults(enter=partial(venv.ensure_env, dev=True))
    elif command == "doctor":  # reports what is missing, so it installs nothing
        sub.set_defaults(enter=venv.enter_env)
    elif command == "clean":  # runs outside of what it removes
        sub.set_defaults(enter=lambda: None)


def _add_maker_options(sub: argparse.ArgumentParser, command: str) -> None:
    if command == "trait-vectors":
        sub.add_argument("traits", nargs="*", help="default: all seven")
        sub.add_argument("--questions", type=int, help="extraction questions of each trait (default: all)")
    elif command == "organism":
        sub.add_argument("what", nargs="?", choices=("train", "neutral"), default="train")
        sub.add_argument("--per-trait", type=int, help="questions of every trait (default: all)")
    elif command == "organism-report":
        sub.add_argument("--record", dest="on_record", action="store_true", help="write to solutions/results.json")
        sub.add_argument("--answers", dest="saved", type=Path, help="JSON Lines: read if it exists, else written")
    elif command == "finetune":
        sub.add_argument("file", type=Path, help="dialogues (.jsonl), or a configuration of upstream (.json)")
        sub.add_argument("--model", help="in place of a configuration's; trait: the tier's own")
        sub.add_argument("--unsloth", action="store_true", help="a configuration's model and adapter by Unsloth (GPU)")
    elif command == "finetuning-study":
        sub.add_argument("parts", nargs="*", help="shift, prevention, screening (default: all)")
        sub.add_argument("--rows", type=int, help="of each dataset (default: 75 on the cpu tier, all elsewhere)")
        sub.add_argument("--category", dest="categories", action="append", default=[], help="only this; repeatable")
        sub.add_argument("--again", action="store_true", help="make also what is there")
    elif command == "coherence":
        sub.add_argument("--record", dest="on_record", action="store_true", help="write to solutions/results.json")
    elif command == "sae":
        sub.add_argument("--block", type=int, default=14, help="block whose output it reads (default: 14)")
        sub.add_argument("--tokens", type=int, help="activations to train on (default: what fits in nine minutes)")
    if command in ("trait-vectors", "organism", "sae", "finetune", "finetuning-study"):
        sub.add_argument("--folder", type=Path, help="where it goes (default: the committed one)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, enter the environment, run the command; known errors become a message and an exit code."""
    try:
        venv.check_python()
        args = parser().parse_args(arguments)
        code = args.enter()
        return args.call(args) if code is None else code
    except KeyboardInterrupt:
        return INTERRUPTED
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
