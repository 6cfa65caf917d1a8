"""The commands for a model of your own, named as the functions of `personalab.own_model` that they call."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalab.measure.outcome import Outcome
    from personalab.own_model import Loaded

COMMANDS = {  # in the sections' order
    "axis": "The Assistant Axis of a model, beside words, prompts alone and chance: a page of HTML. Minutes.",
    "cap": "Cap a model along its axis: role-play and cost, beside random caps. Minutes.",
    "trait-vector": "The vector of a trait in a model, beside words, prompts alone and chance. Minutes.",
    "monitor": "Whether the state before an answer foretells the trait in it. Minutes.",
    "steer": "Steer a model along a trait's vector, beside random vectors. Minutes.",
    "screen": "Rank rows of training data by how far they lean towards a trait.",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    """Every command with its options, in `commands`; returns them."""
    return [_with_options(commands.add_parser(name, description=text)) for name, text in COMMANDS.items()]


def _with_options(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
    name = sub.prog.split()[-1]
    if name not in ("axis", "cap"):
        what = "a trait's name, its .json file" + ("" if name == "trait-vector" else ", or its vector (.safetensors)")
        sub.add_argument("trait", help=what)
        sub.add_argument("--description", help="one sentence, for a trait without a file: its prompts are made of it")
    sub.add_argument("--model", help="id on the hub, or folder (default: PERSONALAB_MODEL, else the embedded model)")
    sub.add_argument("--folder", type=Path, help="where the files go (default: runs/MODEL, in this folder)")
    sub.add_argument("--tokens", type=int, dest="max_tokens", help="longest answer (default: 40)")
    if name in ("axis", "trait-vector"):
        sub.add_argument("--block", type=int, help="block whose numbers are reported, from 0")
    if name in ("axis", "trait-vector", "monitor", "steer"):
        sub.add_argument("--questions", type=int, dest="n_questions", help="more questions, narrower intervals")
    if name == "axis":
        sub.add_argument("--roles", type=int, dest="n_roles", help="how many of the 30 roles (default: all)")
    elif name == "trait-vector":
        sub.add_argument("--tests", type=int, dest="n_test", help="questions to test on (default: 12)")
    elif name == "steer":
        sub.add_argument("--coefficient", type=float, dest="coefficients", action="append", help="repeatable")
    elif name == "cap":
        sub.add_argument("--axis", type=Path, dest="vector", help=".safetensors of `axis` (default: made first)")
        sub.add_argument("--percentile", type=float, help="where the floor lies (default: 0.25)")
        sub.add_argument("--prompts", type=int, dest="n_prompts", help="held-out prompts (default: 24)")
        sub.add_argument("--items", type=int, dest="n_items", help="multiple-choice items (default: 60)")
    elif name == "screen":
        sub.add_argument("--data", type=Path, required=True, help="JSON Lines of conversations")
        sub.add_argument("--rows", type=int, dest="n_rows", help="only the first so many (default: all)")
    return sub


def run(args: argparse.Namespace) -> int:
    """Run one of the `COMMANDS`, print what it found and where its page lies."""
    from personalab import own_model
    from personalab.tiers import EMBEDDED_MODEL, LOCAL, current_tier, folder_name

    known = ("command", "call", "enter", "model", "folder", "trait", "description", "others")
    options = {k: v for k, v in vars(args).items() if k not in known and v is not None}
    tier = current_tier()
    wanted = args.model or (tier.persona_model if tier.name == LOCAL else EMBEDDED_MODEL)
    folder = args.folder or Path("runs") / folder_name(wanted)
    model = own_model.loaded(wanted)
    function: Callable[..., Outcome] = getattr(own_model, args.command.replace("-", "_"))
    if args.command == "trait-vector":
        options |= {"trait": args.trait, "description": args.description}
    elif args.command not in ("axis", "cap"):
        options["vector"] = _vector(model, args, folder)
    if args.command == "cap" and "vector" not in options and (made := folder / "axis.safetensors").is_file():
        options["vector"] = made
        print(f"axis: {made}")
    found = function(model, folder=folder, **options)
    print(f"{found}\n\n{folder / found.stem}.html")
    return 0


def _vector(model: Loaded, args: argparse.Namespace, folder: Path) -> Any:
    """The vector named, the one that lies in the folder already, or one that is made now."""
    from personalab.measure.outcome import file_stem
    from personalab.own_model import trait_vector
    from personalab.studies.own_trait import find_trait

    if args.trait.endswith(".safetensors"):
        return Path(args.trait)
    trait, _ = find_trait(args.trait, args.description)
    made = folder / f"{file_stem(f'trait_vector-{trait.name}')}.safetensors"
    if made.is_file():
        print(f"vector: {made}")
        return made
    print(f"vector: none in {folder} yet, so it is made first")
    return trait_vector(model, args.trait, description=args.description, folder=folder)
