"""The options of `python -m personalab <command>`. In the syntax that `__main__` has, which old Pythons read too."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from personalab.setup import venv
from personalab.setup.venv import ROOT

# What made the committed data, and makes it again: a command's module, whose `make` takes the options.
MAKERS = {
    "capping": ("studies.capping", "Make the tier's capping configuration: minutes on the cpu tier."),
    "capping-cost": ("studies.capping_cost", "Measure what the chosen caps cost; five minutes on the cpu tier."),
    "transcripts": ("studies.conversations", "Hold the scripted conversations of assistant-axis/scenarios.json."),
    "trait-vectors": ("studies.contrast", "Make trait vectors of your own: two minutes a trait on the cpu tier."),
    "organism": ("studies.organism", "Finetune the trait organism: 33 minutes on two cores."),
    "organism-report": ("studies.organism_report", "Measure the trait organism: 25 minutes."),
    "sae": ("studies.sae_training", "Train the sparse autoencoder: nine minutes on two cores."),
    "finetune": ("own_data", "Finetune on your own JSON Lines, or by a configuration: two minutes."),
    "finetuning-study": ("studies.finetuning_study", "Finetune on 24 datasets and measure: an hour; resumes."),
    "convert": ("lm.vector_files", "Vectors or caps to and from .pt of the papers, GGUF (llama.cpp, repeng), ours."),
    "judge-fit": ("judging.fit", "Fit the embedded judge's heads on the labelled examples."),
    "coherence": ("studies.coherence", "Fit the coherence that reads, and measure it: six minutes."),
    "faults": ("studies.faults", "Count what faults, kills, full disks, damaged files cost: minutes."),
}
WEIGHTLESS = ("convert", "faults")  # of these, those that need none of the embedded models


# The order of `--help`; what stands in no group comes last.
GROUPS = {
    "Learning": ("setup", "doctor", "lab", "progress", "hint", "explain", "run", "tiers"),
    "A model, a trait or data of your own": (
        *("axis", "cap", "trait-vector", "monitor", "steer", "screen"),
        *("trait-vectors", "finetune", "convert", "judge"),
    ),
    "Teaching": ("grade",),
    "The course's data, made again": (
        *("capping", "capping-cost", "transcripts", "organism", "organism-report"),
        *("sae", "finetuning-study", "judge-fit", "coherence"),
    ),
    "Maintaining": ("test", "notebooks", "site", "record", "bench", "faults", "clean"),
}
EXIT_CODES = (
    "Exit codes: 0 done; 1 it failed, and the last lines say why and what to do; 2 a command or an option that is not "
    "known; 130 interrupted; of lab, test and bench, that of what they run. COMMAND --help explains one command."
)


USAGE = 2  # argparse's own exit code


class Parser(argparse.ArgumentParser):
    """Says shortly what it does not know, with what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Print one line, with what may have been meant for a command that there is not, and leave with code 2."""
        if found := re.match(r"argument COMMAND: invalid choice: '(.*?)'", message):
            near = difflib.get_close_matches(found[1], [name for group in GROUPS.values() for name in group], n=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            self.exit(USAGE, f"There is no command {found[1]!r}.{meant} {self.prog} --help lists them.\n")
        self.exit(USAGE, f"{self.prog}: {message}. {self.prog} --help explains it.\n")


def parse(top: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; those that `lab` does not know are JupyterLab's, in `others`."""
    if not arguments:
        top.print_help()
        top.exit(USAGE)
    args, others = top.parse_known_args(arguments)
    if others and args.command != "lab":
        top.error(f"unrecognized arguments: {' '.join(others)}")
    args.others = others
    return args


def overview(texts: Mapping[str, str]) -> str:
    """Every command with its line, group by group, and the exit codes: what stands below `--help`.

    Args:
        texts: by command.
    """
    grouped = [name for names in GROUPS.values() for name in names]
    groups, others = dict(GROUPS), tuple(name for name in texts if name not in grouped)
    lines = []
    for title, names in (groups | ({"More": others} if others else {})).items():
        lines += ["", f"{title}:"]
        for name in names:
            lines.append(textwrap.fill(texts[name], 100, initial_indent=f"  {name:<18}", subsequent_indent=" " * 20))
    return "\n".join([*lines, "", textwrap.fill(EXIT_CODES, 100)])


def add_options(sub: argparse.ArgumentParser, command: str) -> None:
    """Those of a command of the course, and the environment that it enters."""
    if command == "run":
        which = "only this section, 4b for the bonus of 4; 1,3 for two (default: all)"
        sub.add_argument("--section", metavar="N", help=which)
        sub.add_argument("--budget", choices=("full", "quick"), help="default: PERSONALAB_BUDGET, else full")
        sub.add_argument(
            "--jobs", type=int, metavar="N", help="sections at once (default: 2 with memory for it, else 1)"
        )
        only = "walk a larger tier's cells on tiny random models, without GPU, network or key: minutes"
        sub.add_argument("--dry-run", action="store_true", help=only)
    elif command == "record":
        sub.add_argument("--section", metavar="N", help="only this section, 4b for the bonus of 4 (default: all)")
        sub.add_argument("--seed", type=int, default=0, help="not 0: other answers; results beside those on record")
    elif command == "tiers":
        sub.add_argument("--budget", choices=("full", "quick"), default="full", help="default: full")
        sub.add_argument("--write", action="store_true", help="bring the tables in docs/tiers/ up to date instead")
        sub.add_argument(
            "--counted", type=Path, metavar="RUN", help="note what a run counted (runs/quick), then --write"
        )
    elif command == "notebooks":
        sub.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
        sub.add_argument("--nbgrader", type=Path, metavar="DIR", help="write nbgrader's source notebooks there instead")
        sub.add_argument("--release", type=Path, metavar="DIR", help="write exercises without solutions there instead")
    elif command in ("hint", "explain"):
        which = "1.4, its function, or words of its title (default: the next to do)"
        sub.add_argument("exercise", nargs="?", default="", help=which)
    elif command == "grade":
        _add_grade_options(sub)
    elif command == "site":
        sub.add_argument("--folder", type=Path, metavar="DIR", help="default: runs/site")
        sub.add_argument("--no-api", action="store_true", help="without the reference from docstrings")
    elif command == "test":
        sub.add_argument("--all", action="store_true", help="the slow tests too")
    elif command == "judge":
        sub.add_argument("--rubric", required=True, help="trait:NAME, trait:ARTIFACT.json, role, delusion or coherence")
        sub.add_argument("--input", type=Path, required=True, metavar="FILE", help="JSON Lines or CSV to score")
        sub.add_argument("--output", type=Path, required=True, metavar="FILE", help="the same rows with a score")
    elif command == "bench":
        sub.add_argument("--peers", action="store_true", help="other packages, each in an environment of its own: GBs")
    elif command == "clean":
        sub.add_argument("--all", action="store_true", help="also what this tier left in artifacts/")
    elif command == "doctor":
        sub.add_argument("--dtype", action="store_true", help="print the dtype that models are loaded in, and no more")
        sub.add_argument("--ask", action="store_true", help="also ask each hosted model of the tier for one word")
    if command in ("test", "notebooks", "record"):
        sub.set_defaults(enter=partial(venv.ensure_env, dev=True))
    elif command == "site":
        sub.set_defaults(enter=partial(venv.ensure_env, site=True))
    elif command == "doctor":  # reports what is missing, so it installs nothing
        sub.set_defaults(enter=venv.enter_env)
    elif command == "clean":  # runs outside of what it removes
        sub.set_defaults(enter=lambda: None)


def _add_grade_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("submissions", nargs="+", type=Path, help="notebooks, or folders of them")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, comma-separated; resumes")
    sub.add_argument("--html", type=Path, metavar="FILE", help="a page to read, with the graders' comments")
    sub.add_argument("--section", default="", metavar="N", help="others get nothing (default: each notebook's own)")
    sub.add_argument("--release", type=Path, default=ROOT / "exercises", metavar="DIR", help="as given to learners")
    sub.add_argument("--jobs", type=int, default=2, help="notebooks at once, each with a GB of memory (default: 2)")
    sub.add_argument("--seconds", type=float, default=60, help="of computing for an exercise (default: 60)")
    sub.add_argument("--notebook-seconds", type=float, default=900, help="for a notebook (default: 900)")
    memory = "of a submission's processes together; without namespaces, of each (default: 4096)"
    sub.add_argument("--memory", type=int, default=4096, metavar="MIB", help=memory)
    sub.add_argument("--draw", type=int, help="of the hidden cases, as an earlier report names it (default: another)")
    sub.add_argument("--tiny", action="store_true", help="a tiny model in place of the notebook's: no weights, faster")


def add_maker_options(sub: argparse.ArgumentParser, command: str) -> None:
    """Those of a command that makes data."""
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
    elif command == "convert":
        sub.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .pt, .gguf, or a capping folder")
        sub.add_argument("out", type=Path, metavar="OUT", help="likewise; its suffix says what is written")
        sub.add_argument("--model", help="id or folder: refuse vectors that do not fit its blocks and width")
        sub.add_argument("--rows", choices=("blocks", "hidden_states"), help="of a .pt where nothing else tells")
        layouts = ("ours", "persona_vectors", "axis", "role", "gguf")
        sub.add_argument("--as", dest="layout", choices=layouts, help="layout of OUT, needed for a .pt")
        sub.add_argument("--scale", type=float, default=1.0, help="multiply the vectors (default: 1, as they are)")
        sub.add_argument("--trait", help="whose they are: kept in OUT, for monitor, steer and screen")
        sub.add_argument("--block", type=int, help="where they are read and act: layer k of persona_vectors is k - 1")
    elif command == "finetuning-study":
        sub.add_argument("parts", nargs="*", help="shift, prevention, screening (default: all)")
        sub.add_argument("--rows", type=int, help="of each dataset (default: 75 on the cpu tier, all elsewhere)")
        sub.add_argument("--category", dest="categories", action="append", default=[], help="only this; repeatable")
        sub.add_argument("--again", action="store_true", help="make also what is there")
    elif command == "faults":
        sub.add_argument("--requests", type=int, default=1000, metavar="N", help="to the faulty server (default: 1000)")
        sub.add_argument("--kills", dest="n_kills", type=int, default=50, metavar="N", help="in all (default: 50)")
        sub.add_argument("--seed", type=int, default=0, help="of the faults and of the moments of the kills")
        sub.add_argument("--record", dest="on_record", action="store_true", help="write benchmarks/results/faults.json")
    elif command == "coherence":
        sub.add_argument("--record", dest="on_record", action="store_true", help="write to solutions/results.json")
    elif command == "sae":
        sub.add_argument("--block", type=int, default=14, help="block whose output it reads (default: 14)")
        sub.add_argument("--tokens", type=int, help="activations to train on (default: what fits in nine minutes)")
    if command in ("trait-vectors", "organism", "sae", "finetune", "finetuning-study"):
        default = "among your artifacts" if command == "trait-vectors" else "the committed one"
        sub.add_argument("--folder", type=Path, help=f"where it goes (default: {default})")
