"""What a cohort hands in: every file is named, and none stops the evening."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from personalab.course.handed_in import MAX_BYTES, HandedIn, handed_in
from personalab.course.marking import GradingError
from personalab.course.submissions import NotOursError, releases, steps
from personalab.files import write
from personalab.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="submissions are graded on Linux only")


def remarks(folder: Path) -> dict[str, str]:
    """By submission, why it cannot be read; "" if it can."""

    def remark(one: HandedIn) -> str:
        try:
            one.content()
        except NotOursError as error:
            return str(error)
        return ""

    return {one.label: remark(one) for one in handed_in([folder])}


def test_only_files_are_read_and_everything_else_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    folder = tmp_path / "submitted"
    for name in ("ada", "bob", "cy", "dan", "eve"):
        (folder / name).mkdir(parents=True)
    (folder / "ada" / "a.ipynb").write_text("{}")
    (folder / "bob" / "a.ipynb").symlink_to(secret)
    (folder / "cy" / "a.ipynb").mkdir()
    os.mkfifo(folder / "dan" / "a.ipynb")
    with (folder / "eve" / "a.ipynb").open("wb") as large:
        large.truncate(MAX_BYTES + 1)
    (folder / "finn").symlink_to(folder / "ada")
    found = remarks(folder)
    assert [*found] == ["ada/a.ipynb", "bob/a.ipynb", "cy/a.ipynb", "dan/a.ipynb", "eve/a.ipynb", "finn"]
    assert found.pop("ada/a.ipynb") == "" and found["bob/a.ipynb"] == found["finn"]
    assert found["bob/a.ipynb"].startswith("a symbolic link") and found["cy/a.ipynb"] == "not a file"
    assert found["dan/a.ipynb"] == "not a file" and found["eve/a.ipynb"] == "larger than 50 MiB"
    linked = tmp_path / "by-hand.ipynb"
    linked.symlink_to(folder / "ada" / "a.ipynb")
    (one,) = handed_in([linked])  # whoever grades may name a link
    assert one.content() == b"{}" and one.student == "by-hand"


def test_names_of_any_bytes_can_be_written_and_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff", b"\\udcff", b"a\x1b[2J", "é".encode()):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        with open(os.path.join(folder, b"a.ipynb"), "wb"):
            pass
    labels = [one.label for one in handed_in([tmp_path])]
    assert len(set(labels)) == 4 and all(label.isprintable() for label in labels)
    assert "é/a.ipynb" in labels and "\n".join(labels).encode()


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write(tmp_path / folder / "ada.ipynb", "{}")
    with pytest.raises(GradingError, match=r"Two submissions are called ada.ipynb"):
        handed_in([tmp_path / "x", tmp_path / "y"])


@pytest.mark.parametrize("metadata", [{"nbgrader": ["no dict"]}, {"nbgrader": None}, {"nbgrader": {"grade_id": [1]}}])
def test_metadata_of_the_wrong_kind_cost_that_notebook(tmp_path: Path, metadata: dict[str, object]) -> None:
    known = releases(ROOT / "exercises")
    nb = json.loads(known["4b"].path.read_text("utf-8"))
    for cell in nb["cells"]:
        cell["metadata"] = metadata
    path = tmp_path / "ada.ipynb"
    write(path, json.dumps(nb))
    try:
        assert steps(path, known)[0].section == "4b"
    except NotOursError as error:
        assert str(error).startswith("not a notebook") and str(tmp_path) not in str(error)
