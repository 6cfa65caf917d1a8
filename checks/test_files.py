"""The one writer of files: whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from personalab.files import read_text, write, write_all
from personalab.judging.rows import read_rows
from personalab.records.schema import DataError, read_jsonl
from personalab.records.torch_files import load_pt


def test_text_is_utf8_with_lf_and_folders_are_made(tmp_path):
    write(tmp_path / "deep" / "a.txt", "Où ?\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "Où ?\n".encode()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_full_disk_changes_no_file_of_several(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "old")
    synced = []

    def full(number):
        synced.append(number)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_all({old: "new", new: b"new"})
    assert old.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["old"]
    write(new, "not synced", sync=False)
    assert len(synced) == 2


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    texts = [str(i) * 50_000 for i in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write(tmp_path / "a", text), texts * 3))
    assert (tmp_path / "a").read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_as_editors_save_it(tmp_path, encoding):
    (tmp_path / "a").write_bytes("Où ?\r\nLà.\n".encode(encoding))
    assert read_text(tmp_path / "a") == "Où ?\nLà.\n"


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes("Où".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json is not UTF-8 text \(.*byte 1\): save it as UTF-8"):
        read_text(tmp_path / "a.json")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    for path, read in (
        (tmp_path / "a.jsonl", read_jsonl),
        (tmp_path / "a.csv", read_rows),
        (tmp_path / "a.pt", load_pt),
    ):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        with pytest.raises(DataError, match=rf"{path.name} is a pointer of Git LFS.*`git lfs pull`"):
            read(path)
