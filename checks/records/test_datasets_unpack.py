"""The datasets' places, and upstream's archive put there."""

import json
import zipfile

import pytest

from personalab.lm.lora_data import read_dialogues
from personalab.records.datasets import CATEGORIES, VERSIONS, dataset_path, unpack
from personalab.records.schema import DataError


def archive_of(path, prefix="dataset/"):
    """As published: a folder, in it a folder for each category with three files; and what a Mac adds."""
    row = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(prefix, "")
        for category in CATEGORIES:
            for version in VERSIONS:
                packed.writestr(f"{prefix}{category}/{version}.jsonl", row + "\n")
        packed.writestr("__MACOSX/dataset/evil/._normal.jsonl", "junk")
        packed.writestr(f"{prefix}.DS_Store", "junk")
    return path


@pytest.mark.parametrize("prefix", ["dataset/", "", "a/b/dataset/"])
def test_upstreams_archive_unpacks_into_the_same_place(tmp_path, prefix):
    written = unpack(archive_of(tmp_path / "dataset.zip", prefix), tmp_path / "here")
    assert sorted(written) == sorted(p for p in (tmp_path / "here").rglob("*") if p.is_file())
    assert len(written) == 24
    for category in CATEGORIES:
        for version in VERSIONS:
            assert len(read_dialogues(dataset_path(category, version, tmp_path / "here"))) == 1


def test_nothing_is_written_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr("../../evil/normal.jsonl", "{}")
        packed.writestr("/etc/evil/normal.jsonl", "{}")
    unpack(tmp_path / "bad.zip", tmp_path / "here")
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jsonl")} == {"here/evil/normal.jsonl"}


def test_what_is_no_archive_and_what_is_missing_is_named(tmp_path):
    (tmp_path / "text.zip").write_text("no")
    for name, says in (("text.zip", "cannot be read as a zip archive"), ("none.zip", "cannot be read")):
        with pytest.raises(DataError, match=says):
            unpack(tmp_path / name, tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(DataError, match="holds no <category>"):
        unpack(tmp_path / "empty.zip", tmp_path)
    with pytest.raises(DataError, match=r"evil/normal\.jsonl does not exist; there are: no datasets"):
        dataset_path("evil", "normal", tmp_path)
