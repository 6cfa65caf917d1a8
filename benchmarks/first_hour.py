"""From an empty folder to the first passing grader, as a newcomer goes: time and memory of each step, room on disk.

    python -m benchmarks.first_hour FOLDER [--run 1]

Clones this repository into FOLDER, which must not exist yet, sets it up with caches of its own, opens JupyterLab twice,
types the first exercise's solution into the workbook, and runs the section that `--run` names at the `quick` budget.
Prints the rows of the table in docs/settings.md; what each step said stays in FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # ipykernel brings it

from personalab.paths import ROOT
from personalab.setup.venv import venv_python

PORT = "8952"
PAUSE = 0.2  # seconds between two looks at a step's processes
DROPPED = ("PERSONALAB_VENV", "PERSONALAB_DTYPE", "PERSONALAB_TIER", "VIRTUAL_ENV", "PYTHONPATH")
UNTIL_FIRST_GRADER = """
import nbformat
from nbclient import NotebookClient
NAME = "section_1_persona_space.ipynb"
book = nbformat.read(f"workbook/{NAME}", 4)
solved = {cell.id: cell.source for cell in nbformat.read(f"solutions/{NAME}", 4).cells}
cells = [cell for cell in book.cells if cell.cell_type == "code"]
last = next(k for k, cell in enumerate(cells) if cell.metadata.get("nbgrader", {}).get("grade"))
for cell in cells[:last]:
    cell.source = solved[cell.id] if "NotImplementedError" in cell.source else cell.source
book.cells = cells[: last + 1]
NotebookClient(book, timeout=900, resources={"metadata": {"path": "workbook"}}).execute()
print("".join(output.text for output in cells[last].outputs))
"""


def main() -> int:
    """Returns 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", metavar="SECTION", help="then run this section, at the quick budget")
    args = parser.parse_args()
    folder = args.folder.resolve()
    course = folder / "course"
    course.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if name not in DROPPED}
    env |= {"PERSONALAB_CACHE": str(folder / "cache"), "PIP_CACHE_DIR": str(folder / "pip")}
    print("| step | by the clock, s | computing, s | memory, GB |", "|---|---|---|---|", sep="\n")
    for name, command in steps(course, args.run).items():
        with (folder / f"{name.replace(' ', '-')}.txt").open("w") as said:
            row = walked(command, course, env, said.fileno(), address=name.startswith("make lab"))
        if not row:
            print(f"{name}: failed, see {said.name}", file=sys.stderr)
            return 1
        print(f"| {name} | {row} |", flush=True)
    for made in (course / ".git", course / ".venv", folder / "cache", folder / "pip", folder):
        print(f"{made.relative_to(folder.parent).as_posix()}: {size(made) / 1e9:.2f} GB")
    return 0


def steps(course: Path, section: str | None) -> dict[str, Sequence[str]]:
    """What a newcomer does -> the command."""
    personalab = [sys.executable, "-m", "personalab"]  # which goes on in the course's own environment
    lab = [*personalab, "lab", "--no-browser", "--allow-root", "--port", PORT, "--IdentityProvider.token="]
    walk: dict[str, Sequence[str]] = {
        "git clone": ["git", "clone", "-q", ROOT.as_uri(), str(course)],
        "make setup": [*personalab, "setup"],
        "make lab, until it answers": lab,
        "make lab, the second time": lab,
        "Section 1 up to its first grader": [str(venv_python(course / ".venv")), "-c", UNTIL_FIRST_GRADER],
    }
    again = {f"Section {section}, quick": [*personalab, "run", "--section", str(section), "--budget", "quick"]}
    return walk | (again if section else {})


def walked(command: Sequence[str], cwd: Path, env: Mapping[str, str], said: int, address: bool) -> str:
    """A step's columns: seconds by the clock, of computing, and the most memory of its processes; "" if it failed.

    Args:
        said: file descriptor for what it prints.
        address: whether it is a server, which is done when it answers, and stopped then.
    """
    start = time.monotonic()
    process = psutil.Popen(command, cwd=cwd, env=env, stdout=said, stderr=said)
    computed: dict[psutil.Process, float] = {}
    most, answered = 0, False
    while process.poll() is None and not answered:
        memory = 0
        with suppress(psutil.Error):  # one that has just ended
            for each in (process, *process.children(recursive=True)):
                computed[each] = sum(each.cpu_times()[:2])
                memory += each.memory_full_info().pss  # shared pages once
        most = max(most, memory)
        time.sleep(PAUSE)
        answered = address and answers()
    seconds = time.monotonic() - start
    for each in computed if answered else ():
        with suppress(psutil.Error):
            each.terminate()
    code = process.wait()
    return f"{seconds:.0f} | {sum(computed.values()):.0f} | {most / 1e9:.1f}" if answered or code == 0 else ""


def answers() -> bool:
    """Whether JupyterLab sends its page."""
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"http://localhost:{PORT}/lab", timeout=5).read())
    return False


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main())
