"""What the command line does for the larger tiers: their tables, their dry run, and what a run looks at first."""

from __future__ import annotations

import argparse

from personalab.paths import ROOT
from personalab.setup.gpu import GPUS
from personalab.setup.venv import SetupError
from personalab.tiers import TIERS, current_tier


def tiers(args: argparse.Namespace) -> int:
    """Print what the sections take on the larger tiers, by formula: calls, tokens, GPU memory, minutes."""
    from personalab.course import tier_pages

    try:
        if args.counted:
            print(f"counted: {', '.join(tier_pages.take_counts(args.counted))}")
        if args.write or args.counted:
            changed = [f"wrote {path.relative_to(ROOT).as_posix()}" for path in tier_pages.build()]
            print(*(changed or ["Every page is up to date."]), sep="\n")
            return 0
        for name in GPUS:
            machine = TIERS[name].machine
            print(f"\n{name} ({machine}), {args.budget} budget; docs/tiers/{name}.md explains the columns\n")
            print(*tier_pages.table(TIERS[name], TIERS[name].budgets[args.budget]), sep="\n")
    except ValueError as error:
        raise SetupError(str(error)) from error
    return 0


def dry_run(section: str | None) -> int:
    """`run --dry-run`: see `personalab.dry_run`. Raises ValueError as `walk` does."""
    from personalab import dry_run as dry  # brings in the engine, which takes seconds

    return dry.walk(section)


def ask() -> None:
    """`doctor --ask`: ask each hosted model for one word. Raises ValueError as `check_hosted` does."""
    from personalab.endpoint.hosted_models import check_hosted

    print(*(check_hosted(current_tier()) or ["This tier asks no hosted model."]), sep="\n")


def before_run(section: str | None, budget: str) -> None:
    """Say what a run is about to take, and find out that it cannot begin before it has begun.

    Raises:
        ValueError: where a model is gated and nobody is logged in to the hub, or a hosted model does not answer; with
            what to do.
    """
    from personalab.course import tier_pages
    from personalab.course.myst import is_wanted
    from personalab.endpoint.hosted_models import check_hosted
    from personalab.setup.doctor import gate_problems
    from personalab.setup.work import SECTIONS, calls, work_of

    tier = current_tier()
    if problems := gate_problems(tier):
        raise ValueError("\n".join(f"{p.what}: {p.fix}." for p in problems))
    for line in tier_pages.announce(tier, budget, section):
        print(line)
    asked = (number for number in SECTIONS if is_wanted(number, section))
    if section is None or any(calls(work_of(number, tier, tier.budgets[budget])) for number in asked):
        for line in check_hosted(tier):
            print(line, flush=True)
