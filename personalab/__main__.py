"""Persona Lab: `python -m personalab COMMAND`. With make, `make COMMAND ARGS="…"` is the same for what it knows."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from personalab import __version__
from personalab.command_options import MAKERS, WEIGHTLESS, Parser, add_maker_options, add_options, overview, parse
from personalab.setup import venv
from personalab.setup.venv import ROOT, SetupError, run_child

FAILED = 1
INTERRUPTED = 130  # the shell's convention: 128 + SIGINT

T = TypeVar("T")


def setup(args: argparse.Namespace) -> int:
    """Make the environment; fetch and convert the embedded models unless the current tier does without."""
    from personalab.setup.machine import tier_dtype

    _ensure_weights()
    print(f"Computes in {_setting(tier_dtype)} (PERSONALAB_DTYPE changes that).")
    print("Ready. Next: python3 -m personalab run   (or: make run)")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Print what this machine has, which tier fits it, and what is missing."""
    from personalab.setup import doctor as report
    from personalab.setup.machine import tier_dtype

    if args.dtype:
        print(_setting(tier_dtype))
        return 0
    code = report.main()
    if args.ask:
        from personalab import tier_commands

        _setting(tier_commands.ask)
    return code


def run(args: argparse.Namespace) -> int:
    """Execute the solution notebooks into runs/; nothing that git tracks changes."""
    from personalab import tier_commands, tiers
    from personalab.course import running

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SetupError("`run` executes one notebook after another: start it without a launcher of several processes.")
    if args.dry_run and args.budget:
        raise SetupError("--dry-run has a budget of its own: leave --budget out.")
    if args.dry_run:
        _ensure_weights()
        return _setting(lambda: tier_commands.dry_run(args.section))
    budget = args.budget or _setting(tiers.budget)
    _setting(lambda: running.chosen(args.section, ROOT))
    _setting(lambda: running.jobs_allowed(args.jobs, tiers.current_tier()))
    _setting(lambda: tier_commands.before_run(args.section, budget))
    _ensure_weights()
    return running.execute(args.section, budget, jobs=args.jobs)


def record(args: argparse.Namespace) -> int:
    """For maintainers: execute the solutions in float32 and replace what the repository keeps of them."""
    from personalab.course import recording

    _ensure_weights()
    return _setting(lambda: recording.record(args.section, seed=args.seed))


def test(args: argparse.Namespace) -> int:
    """Lint, types, imports, drift, then the pytest suite. All run; the exit code is the first failure's."""
    from personalab.setup import checking, weights

    weights.SENTENCE_ENCODER.ensure()  # the judge's checks read real text with it
    return checking.run_all(checking.steps(slow=args.all))


def lab(args: argparse.Namespace) -> int:
    """Open JupyterLab on workbook/, your own copy of exercises/, brought up to date; options are JupyterLab's."""
    from personalab.course import workbook

    try:
        for line in workbook.update(ROOT):
            print(line, flush=True)
    except RuntimeError as error:  # a merge that would lose words
        raise SetupError(str(error)) from error
    _ensure_weights()
    return run_child([sys.executable, "-m", "jupyter", "lab", *args.others], cwd=workbook.folder(ROOT))


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


def site(args: argparse.Namespace) -> int:
    """Make the reading site in runs/site/html: sections with their outputs, documentation, API."""
    from personalab.course import site as pages

    code = pages.build(args.folder or ROOT / "runs" / "site", api=not args.no_api)
    print(f"{(args.folder or ROOT / 'runs' / 'site') / 'html' / 'index.html'}")
    return code


def judge(args: argparse.Namespace) -> int:
    """Score the answers in a JSON Lines or CSV file with the embedded judge."""
    from personalab.judging import scoring

    print(_setting(lambda: scoring.score_file(args.rubric, args.input, args.output)))
    return 0


def progress(args: argparse.Namespace) -> int:
    """Say which exercises pass in your workbook, and which is next."""
    from personalab.course import progress as kept

    print(kept.progress())
    return 0


def hint(args: argparse.Namespace) -> int:
    """Print the hints on an exercise's card."""
    from personalab.course import progress as kept

    print(_setting(lambda: kept.hint(args.exercise)))
    return 0


def explain(args: argparse.Namespace) -> int:
    """Print what the graders of an exercise said last."""
    from personalab.course import progress as kept

    print(_setting(lambda: kept.explain(args.exercise)))
    return 0


def grade(args: argparse.Namespace) -> int:
    """Grade a cohort's notebooks, each confined in a process of its own; write a table, and a page to read."""
    from personalab.course import grade_report
    from personalab.course.grading import grade as graded
    from personalab.course.marking import GradingError, Settings

    if not args.tiny:
        _ensure_weights()
    names = ("section", "jobs", "tiny", "seconds", "notebook_seconds", "draw")
    settings = Settings(folder=args.release, memory=args.memory << 20, **{name: getattr(args, name) for name in names})
    try:
        run = graded(args.submissions, args.out, settings)
    except (GradingError, ValueError) as error:
        raise SetupError(str(error)) from error
    grade_report.write_csv(run, args.out)
    if args.html:
        grade_report.write_html(run, args.html)
    print(f"{grade_report.summary(run.graded)} {run.seconds:.0f} s: {args.out}")
    return 0


def bench(args: argparse.Namespace) -> int:
    """Run every benchmarks/bench_*.py, or with --peers the other packages on the same work; the first exit code."""
    from personalab.setup import checking

    _ensure_weights()
    return checking.run_all(checking.benchmarks(args.peers))


def clean(args: argparse.Namespace) -> int:
    """Remove environment, caches and this tier's runs; its artifacts/ with --all; other tiers' and workbook/ never."""
    from personalab.setup import cleaning

    print(*_setting(lambda: cleaning.clean(ROOT, args.all)), sep="\n")
    return 0


def make(args: argparse.Namespace) -> int:
    """Run one of the `MAKERS`."""
    module = importlib.import_module(f"personalab.{MAKERS[args.command][0]}")
    if args.command not in WEIGHTLESS:
        _ensure_weights()
    options = {name: value for name, value in vars(args).items() if name not in ("command", "call", "enter", "others")}
    _setting(lambda: module.make(**options))
    return 0


def own_model(args: argparse.Namespace) -> int:
    """One of the commands for a model of one's own (`personalab.model_commands`)."""
    from personalab import model_commands

    _ensure_weights()
    return _setting(lambda: model_commands.run(args))


def _ensure_weights() -> None:
    from personalab import tiers
    from personalab.setup import weights

    tier = _setting(tiers.current_tier)
    if tier.embedded or tier.judged_here:
        for model in weights.MODELS:
            model.ensure()


def _setting(read: Callable[[], T]) -> T:
    """A setting from the environment; a wrong value becomes one line instead of a traceback."""
    try:
        return read()
    except ValueError as error:
        raise SetupError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    from personalab import model_commands, tier_commands

    top: argparse.ArgumentParser = Parser(
        prog="python -m personalab",
        usage="python -m personalab COMMAND [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help="show this and exit")
    top.add_argument("--version", action="version", version=f"personalab {__version__}", help="show it and exit")
    commands = top.add_subparsers(
        prog="python -m personalab", dest="command", metavar="COMMAND", help=argparse.SUPPRESS, required=True
    )
    learners = (setup, doctor, run, record, test, lab, progress, hint, explain)
    for command in (*learners, tier_commands.tiers, notebooks, site, grade, judge, bench, clean):
        sub = commands.add_parser(command.__name__, description=command.__doc__)
        sub.set_defaults(call=command, enter=venv.ensure_env)
        add_options(sub, command.__name__)
    for name, (_, text) in MAKERS.items():
        sub = commands.add_parser(name, description=text)
        sub.set_defaults(call=make, enter=venv.ensure_env)
        add_maker_options(sub, name)
    for sub in model_commands.add(commands):
        sub.set_defaults(call=own_model, enter=venv.ensure_env)
    top.epilog = overview({name: sub.description or "" for name, sub in commands.choices.items()})
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, enter the environment, run the command; known errors become a message and an exit code."""
    try:
        venv.check_python()
        from personalab.setup import installed

        args = parse(parser(), sys.argv[1:] if arguments is None else arguments)
        if int(os.environ.get("RANK", "0")) > 0:  # of several processes, the first speaks for all
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        _setting(lambda: installed.check(args.command, args.command in MAKERS, getattr(args, "folder", None)))
        code = args.enter()
        return args.call(args) if code is None else code
    except KeyboardInterrupt:
        return INTERRUPTED
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
