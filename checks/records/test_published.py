"""Upstream's trait vectors, from a folder of the published shape with small random tensors."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from personalab.records import published
from personalab.records.published import load_published_traits
from personalab.records.schema import DataError

BLOCKS, WIDTH = 46, 8


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trait_vectors").mkdir()
    for name in ("assistant_axis", "trait_vectors/calm", "trait_vectors/bold"):
        torch.save(torch.randn(BLOCKS, WIDTH).bfloat16(), tmp_path / f"{name}.pt")
    return tmp_path


def test_one_block_of_every_trait_and_of_the_axis(folder):
    traits, axis = load_published_traits(folder)
    assert list(traits) == ["bold", "calm"]
    assert axis.shape == (WIDTH,)
    assert axis.dtype == torch.float32
    assert torch.equal(traits["calm"], torch.load(folder / "trait_vectors" / "calm.pt")[22].float())


def test_from_the_hub_only_what_is_needed(folder, monkeypatch):
    asked = {}

    def download(repo, **kwargs):
        asked[repo] = kwargs
        return folder.parent

    monkeypatch.setattr(published, "MODEL", folder.name)
    monkeypatch.setattr(published, "snapshot_download", download)
    assert len(load_published_traits()[0]) == 2
    assert asked["lu-christina/assistant-axis-vectors"]["allow_patterns"] == [
        f"{folder.name}/trait_vectors/*.pt",
        f"{folder.name}/assistant_axis.pt",
    ]


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def download(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(published, "snapshot_download", download)
    with pytest.raises(DataError, match="pass it as `folder`"):
        load_published_traits()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trait_vectors/calm", torch.zeros(3, WIDTH), "with a block 22"),
        ("trait_vectors/calm", torch.zeros(BLOCKS, WIDTH + 1), "another width"),
        ("trait_vectors/calm", BLOCKS, "must hold a tensor"),
        ("assistant_axis", load_published_traits, "no plain tensor file"),  # code, which is never run
    ],
)
def test_a_bad_file_is_named(folder, name, content, message):
    torch.save(content, folder / f"{name}.pt")
    with pytest.raises(DataError, match=message):
        load_published_traits(folder)


def test_missing_files_are_named(folder):
    (folder / "assistant_axis.pt").unlink()
    with pytest.raises(DataError, match=r"assistant_axis\.pt is missing"):
        load_published_traits(folder)
    with pytest.raises(DataError, match=r"holds no \.pt files"):
        load_published_traits(folder / "trait_vectors")
