"""Where the course is published, and what its notebooks then hold for those who have nothing but a notebook.

One setting in `pyproject.toml`: `[tool.personalab]` `published = "https://github.com/OWNER/REPOSITORY@TAG"`. While it
is empty, no notebook has badges or that cell.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

FETCH = "fetch-the-course"  # id and tag of the first cell
GITHUB = "https://github.com/"
_FORM = re.compile(r"(?P<address>(?:https|file)://[^\s\"\\]+)@(?P<tag>[\w.-]+)")
_BADGES = {
    "Colab": ("https://colab.research.google.com/assets/colab-badge.svg", "https://colab.research.google.com/github/"),
    "Kaggle": (
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        f"https://kaggle.com/kernels/welcome?src={GITHUB}",
    ),
}
_PICTURE = re.compile(r"\[!\[(Open in \w+)\]\([^)]*\)\]")
_IN_TABLE = re.compile(r"\(exercises/(\w+)\.ipynb\)(?: \(\[Colab\]\([^)]*\)\))?")
_FIRST_CELL = """\
# Where the course is, this cell does nothing. Elsewhere (Colab, Kaggle) it fetches the course and what that needs.
def fetch_course(address: str, release: str) -> None:
    import os
    import sys
    from pathlib import Path
    from shutil import unpack_archive, which
    from subprocess import CalledProcessError, run
    from tempfile import TemporaryDirectory
    from urllib.request import urlretrieve

    here, course, known_by = Path.cwd(), Path(f"persona-lab-{release}").resolve(), Path("personalab", "tiers.py")
    if any((folder / known_by).exists() for folder in (here, *here.parents)):
        return
    try:
        if not course.exists():
            with TemporaryDirectory(dir=here) as draft:  # so that half of it is never taken for the course
                if which("git"):
                    git = ["git", "clone", "--depth=1", f"--branch={release}", address, f"{draft}/course"]
                    run(git, check=True, capture_output=True, text=True, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
                else:
                    archive, _ = urlretrieve(f"{address}/archive/refs/tags/{release}.tar.gz")
                    unpack_archive(archive, draft, "gztar", filter="data")
                next(Path(draft).iterdir()).rename(course)
    except (OSError, CalledProcessError) as error:
        raise RuntimeError(
            f"{address} at {release} cannot be fetched: {getattr(error, 'stderr', None) or error}\\n"
            "Connect to the network, then run this cell again. Kaggle's is off at first: Settings > Turn on internet "
            f"(your account needs a phone number). Without one, copy the course's folder to {course}."
        ) from None
    if not (course / known_by).exists():
        raise RuntimeError(f"{course} is in the way, and not the course: rename it, then run this cell again.")
    sys.path.insert(0, str(course))
    from personalab.setup.hosted import prepare

    prepare(course)


fetch_course("ADDRESS", "RELEASE")"""


@dataclass(frozen=True)
class Published:
    """The address of the repository, and the tag of the release that notebooks fetch."""

    address: str
    tag: str

    def badges(self, section: str) -> str:
        """Links that open a section's exercises in Colab and Kaggle, which read GitHub; "" for another host."""
        if not self.address.startswith(GITHUB):
            return ""
        return " ".join(f"[![Open in {name}]({_BADGES[name][0]})]({self.link(name, section)})" for name in _BADGES)

    def link(self, name: str, section: str) -> str:
        """Where a section's exercises open in `name`, "Colab" or "Kaggle"."""
        repository = self.address.removeprefix(GITHUB).removesuffix(".git").strip("/")
        return f"{_BADGES[name][1]}{repository}/blob/{self.tag}/exercises/{section}.ipynb"

    def first_cell(self) -> NotebookNode:
        """The code that fetches the course where there is none; the site leaves it out."""
        code = _FIRST_CELL.replace("ADDRESS", self.address).replace("RELEASE", self.tag)
        return nbformat.v4.new_code_cell(code, id=FETCH, metadata={"tags": [FETCH, "remove-cell"]})


def published(root: Path) -> Published | None:
    """The setting in the `pyproject.toml` of `root`, None while it is empty.

    Raises:
        ValueError: for anything else than an address, an @ and a tag.
    """
    file = root / "pyproject.toml"
    project = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    setting = project.get("tool", {}).get("personalab", {}).get("published", "")
    if not setting:
        return None
    if not (found := _FORM.fullmatch(setting)):
        raise ValueError(
            f"{file}, [tool.personalab] published = {setting!r}: write address@tag, as in "
            f'"{GITHUB}OWNER/REPOSITORY@v0.1.0", or leave it empty.'
        )
    return Published(**found.groupdict())


def add_to(cells: list[NotebookNode], where: Published, section: str, badges: bool) -> None:
    """Put the cell that fetches the course before the first code cell, and badges under the title, in place."""
    first = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    cells.insert(first, where.first_cell())
    if badges and (shown := where.badges(section)):
        cells[0].source = re.sub(r"\A(# .+\n)", lambda title: f"{title[1]}\n{shown}\n", cells[0].source)


def fetches(cell: NotebookNode) -> bool:
    """Whether this is the cell that fetches the course, also where an editor has dropped its tags."""
    tags = cell.metadata.get("tags", [])
    return FETCH in tags or (cell.cell_type == "code" and cell.source.startswith(_FIRST_CELL.partition("\n")[0]))


def without_pictures(text: str) -> str:
    """Badges as plain links, for pages that fetch nothing from elsewhere."""
    return _PICTURE.sub(r"[\1]", text)


def linked_table(text: str, where: Published | None) -> str:
    """The README with a link to Colab behind each section's notebook, or without while nothing is published."""

    def link(found: re.Match[str]) -> str:
        here = f"(exercises/{found[1]}.ipynb)"
        return f"{here} ([Colab]({where.link('Colab', found[1])}))" if where and where.badges(found[1]) else here

    return _IN_TABLE.sub(link, text)
