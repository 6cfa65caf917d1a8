"""What an installed wheel leaves to a checkout: it has no course's folder, and nothing writes into its own."""

from __future__ import annotations

from pathlib import Path

from personalab import paths, tiers
from personalab.setup.venv import SetupError

# Commands that work on the course's folder.
COURSE = ("run", "tiers", "record", "test", "lab", "notebooks", "bench", "clean")
# Makers that write among your own files, where you say, or nowhere.
ELSEWHERE = ("trait-vectors", "finetune", "convert", "faults")


def check(command: str, maker: bool, folder: Path | None) -> None:
    """Raise SetupError where an installed wheel lacks what a command works on; before anything is computed.

    Args:
        maker: whether it makes data that come with the course.
        folder: where these go; None for their default, the place of the course's own. Those of a model that is not the
            tier's own go among your artifacts anyway.
    """
    if not paths.INSTALLED:
        return
    if command in COURSE:
        raise SetupError(f"`personalab {command}` works in the course's folder: clone the repository and run it there.")
    tier = tiers.current_tier()
    if maker and command not in ELSEWHERE and folder is None and tier.folder == tier.name:
        raise SetupError(
            f"`personalab {command}` replaces what comes with the course, and the installed package stays as it is: "
            "name a --folder if the command takes one, or run it in a clone of the repository."
        )
