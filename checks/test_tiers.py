"""The tier of one model of your own: who answers, who judges, and where its files go."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from endpoint_server import Server, ask
from transformers import Qwen2Config

from personalab import paths, tiers
from personalab.course.running import _environment
from personalab.endpoint import generate_response, make_client
from personalab.endpoint.client import is_embedded, shared_client
from personalab.endpoint.engine import engine
from personalab.lm import models
from personalab.lm.tiny import load_tiny_model
from personalab.measure import coherence
from personalab.records.artifacts import find_artifact, save_artifact
from personalab.records.steps import steps_dir
from personalab.setup import doctor
from personalab.studies.capping import config_folder

pytestmark = pytest.mark.usefixtures("own_settings")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a model of 6 blocks, artifacts elsewhere, and a tier that is read from the environment."""
    model, tokenizer = load_tiny_model("qwen2", n_blocks=6)
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    monkeypatch.setattr(tiers, "_active", None)
    monkeypatch.setattr(models, "_pristine", {})
    return str(tmp_path / "tiny")


@pytest.mark.parametrize("tier", ["local", None])
def test_one_model_does_everything(tiny: str, tier: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_MODEL", tiny)
    if tier:
        monkeypatch.setenv("PERSONALAB_TIER", tier)
    found = tiers.current_tier()
    ids = {found.persona_model, found.capping_model, found.trait_model, found.response_model}
    assert (found.name, ids) == ("local", {tiny})
    assert (found.n_blocks, found.axis_block, found.trait_block) == (6, 4, 3)
    assert found.in_process and found.judged_here and not found.embedded
    loaded = [models.load_model(kind)[0] for kind in ("persona", "trait", "response")]
    weights = {next(m.parameters()).data_ptr() for m in loaded}
    assert len(weights) == 1 and len(set(map(id, loaded))) == 3  # one copy of the weights, hooks of their own


def test_it_answers_here_and_another_judge_elsewhere(
    tiny: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers.use_tier("local", tiny, judge_model="judge-x")
    assert is_embedded(make_client())  # whatever OPENAI_BASE_URL says, which is the judge's
    text = generate_response(ask("the sea"), max_tokens=5)
    assert server.bodies == [] and text != "the sea"
    assert tiny in [m.id for m in make_client().models.list()]
    generate_response(ask("score this"), model="judge-x")
    assert [body["model"] for body in server.bodies] == ["judge-x"]
    assert not is_embedded(shared_client("judge-x"))


def test_colab_answers_here_and_judges_here_without_a_key(
    tiny: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OPENAI_BASE_URL` names a server all the while, as for a judge, and nobody asks it."""
    tier = tiers.use_tier("colab", persona_model=tiny, n_blocks=6)
    assert tier.answers_here and tier.judged_here and not tier.in_process  # Section 3's model is another one
    assert not doctor_problems(tier)
    assert generate_response(ask("the sea"), max_tokens=5) != "the sea" and is_embedded(make_client())
    assert is_embedded(shared_client(tiers.EMBEDDED_JUDGE)) and server.bodies == []
    tiers.use_tier("colab", persona_model=tiny, judge_model="judge-x")  # by choice
    generate_response(ask("score this"), model="judge-x")
    generate_response(ask("the sky"), max_tokens=5)
    assert [body["model"] for body in server.bodies] == ["judge-x"]
    assert not tiers.use_tier("colab", response_model="served").answers_here
    assert not tiers.TIERS["a100"].answers_here


def doctor_problems(tier: tiers.Tier) -> list[str]:
    """What the doctor says about this tier on a machine that has everything but keys."""
    machine = doctor.Machine(16e9, 16e9, 50e9, 2, "a GPU", 16e9)
    return [p.what for p in doctor.problems_of(tier, machine) if "is set" in p.what]


def test_what_answers_and_what_is_read_share_weights_while_either_is_in_use(tiny: str) -> None:
    tiers.use_tier("colab", persona_model=tiny, n_blocks=6)
    persona, response = (models.load_model(kind)[0] for kind in ("persona", "response"))
    weights = {next(m.parameters()).data_ptr() for m in (persona, response)}
    assert len(weights) == 1 and in_use(tiny) == 2
    del persona, response
    gc.collect()  # a GPU of 16 GB needs the room: the next section's model beside it would not fit
    assert in_use(tiny) == 0


def test_what_is_paid_for_is_reused_and_the_rest_generated_afresh(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSONALAB_RESPONSE_CACHE", raising=False)
    for judge, cache in ((tiers.EMBEDDED_JUDGE, "off"), ("judge-x", None)):
        tier = tiers.use_tier("colab", judge_model=judge)
        assert _environment(tier, "full", tmp_path, "scratch").get("PERSONALAB_RESPONSE_CACHE") == cache


def in_use(model: str) -> int:
    """How many twins of it are alive."""
    return sum(name == model for (name, _), _ in models._twins.values())


@pytest.mark.parametrize(("family", "attends"), [("gemma2", "eager"), ("qwen2", "sdpa")])
@pytest.mark.parametrize("tier", ["colab", "a100", "local"])
def test_a_model_decides_how_it_attends_whatever_the_tier(
    family: str, attends: str, tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    monkeypatch.setattr(tiers, "_active", None)
    for part in load_tiny_model(family):
        part.save_pretrained(tmp_path)
    names = {} if tier == "local" else {"trait_model": str(tmp_path)}
    tiers.use_tier(tier, str(tmp_path) if tier == "local" else None, **names)
    assert models.load_model("trait")[0].config._attn_implementation == attends
    tiers.use_tier("a100", trait_model=str(tmp_path), attention="eager")  # by choice
    assert models.load_model("trait")[0].config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["cpu", "colab", "a100"])
@pytest.mark.parametrize(
    ("stored", "native", "dtype"),
    [("bfloat16", True, "bfloat16"), ("float16", True, "bfloat16"), ("bfloat16", False, "float32"),
     ("float32", False, "float32"), ("float16", False, "float16")],
)  # fmt: skip
def test_a_model_and_the_gpu_decide_the_dtype_whatever_the_tier(
    name: str, stored: str, native: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSONALAB_DTYPE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    config = Qwen2Config(dtype=stored)
    assert models.resolve_dtype(tiers.TIERS[name], "cuda", config) == getattr(torch, dtype)


def test_replies_of_other_weights_are_not_taken_from_the_cache(tiny: str) -> None:
    tiers.use_tier("local", tiny)
    before, first = engine(tiny), generate_response(ask("the sea"), max_tokens=8)
    other, _ = load_tiny_model("qwen2", seed=1, n_blocks=6)
    other.save_pretrained(tiny)
    assert engine(tiny) != before
    assert first


def test_files_are_kept_apart_by_model(tiny: str) -> None:
    tiers.use_tier("local", tiny)
    folder = Path(tiers.current_tier().folder)
    assert folder.parts[0] == "local" and folder.name.startswith("tiny-")
    vectors = {"axis": torch.zeros(6, 32)}
    path = save_artifact("axis.safetensors", vectors, model=tiny, convention="row = block")
    assert path.parent == paths.artifacts_dir(str(folder)) == steps_dir("x").parents[1] == config_folder().parent
    assert not path.is_relative_to(paths.ROOT / "artifacts" / "reference")
    tiers.use_tier("local", tiers.EMBEDDED_MODEL)
    with pytest.raises(FileNotFoundError, match="run it"):
        find_artifact("axis.safetensors", advice="run it")
    assert tiers.use_tier("cpu").folder == "cpu"
    assert tiers.use_tier("cpu", trait_model="a/b").folder == "cpu/a--b"  # beside the course's, not among them


def test_a_persona_model_writes_its_own_answers(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_PERSONA_MODEL", tiny)
    tier = tiers.current_tier()
    assert tier.response_model == tiny and tier.in_process
    assert is_embedded(make_client())
    assert tiers.use_tier("cpu", persona_model="a/b", response_model="c/d").response_model == "c/d"
    assert tiers.use_tier("colab", persona_model="a/b").response_model == "a/b"
    assert not tiers.current_tier().in_process


def test_coherence_is_read_by_the_embedded_model(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        """For the embedded model's name."""

    def load(name: str, dtype: torch.dtype) -> None:
        raise Asked(name)

    tiers.use_tier("local", tiny)
    monkeypatch.setattr(models, "_load_embedded", load)
    monkeypatch.setattr(coherence, "encode_unique", lambda texts: torch.ones(len(texts), 1, 3))
    with pytest.raises(Asked, match=tiers.EMBEDDED_MODEL):
        coherence.features([("question", "answer")])


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'local' needs a model: set PERSONALAB_MODEL"):
        tiers.use_tier("local")
    with pytest.raises(ValueError, match=r"PERSONALAB_MODEL='a/b'.*the tier 'cpu'"):
        tiers.use_tier("cpu", "a/b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No model '.*empty'.*name an id on the"):
        tiers.use_tier("local", str(tmp_path / "empty"))
