"""A clone of upstream in place of this course's data: what it has comes from it, what it lacks is ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from personalab import tiers
from personalab.judging.rows import parse_rubric
from personalab.paths import ROOT
from personalab.records import clones, upstream
from personalab.records.datasets import load_dataset
from personalab.records.items import load_items
from personalab.records.prompts import (
    load_contrasts,
    load_graded_prompts,
    load_jailbreaks,
    load_scenarios,
    load_systems,
)
from personalab.records.schema import DataError
from personalab.records.transfer import load_transfer_texts
from personalab.sae.files import load_sae
from personalab.studies.capping import load_capping_config
from personalab.studies.contrast import load_trait_vectors

SHARED = ROOT.parent / "shared" / "upstream"
needs_upstream = pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/upstream beside this checkout")
ROLE = {"instruction": [{"pos": f"You are {{model_name}}, {i}."} for i in range(5)]}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small clone of `assistant-axis` with two roles and the case studies of two models, named by the environment."""
    tiers.use_tier("cpu")
    for name in ("default", "pirate"):
        place(tmp_path / "data" / "roles" / "instructions" / f"{name}.json", ROLE)
    for folder, model in (("a-1b", "A/a-1b"), ("b-2b", "B/b-2b")):
        turns = [{"role": "user", "content": f"Hello, {model}"}]
        place(tmp_path / "transcripts" / "case_studies" / folder / "delusion_capped.json.json", talk(model, turns))
    monkeypatch.setenv("PERSONALAB_ASSISTANT_AXIS", str(tmp_path))
    return tmp_path


def place(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def talk(model: str, turns: list[dict[str, str]]) -> dict[str, object]:
    return {"model": model, "conversation": turns}


def test_what_a_clone_lacks_is_ours(clone, capsys):
    assert list(upstream.load_roles()) == ["default", "pirate"]
    assert upstream.load_role_groups() == {"assistant_like": [], "mid_range": [], "fantastical": ["pirate"]}
    ours = clones.ASSISTANT_AXIS
    assert load_jailbreaks("calibration") == load_jailbreaks("calibration", ours)
    assert load_items() == load_items(root=ours) and load_scenarios() == load_scenarios(ours)
    said = capsys.readouterr().out
    assert all(f"{part}: this course's own" in said for part in ("data/roles/groups.json", "jailbreaks", "capability"))


def test_what_a_clone_has_comes_before_ours(clone):
    place(clone / "scenarios.json", {"persona_drift": {"here": [["Hi."]]}, "case_studies": {}})
    assert list(load_scenarios().persona_drift) == ["here"]
    place(clone / "data" / "traits" / "instructions" / "loud.json", trait_file())
    assert parse_rubric("trait:loud").name == "loud"


def trait_file() -> dict[str, object]:
    pairs = [{"pos": f"Be loud {i}.", "neg": f"Be quiet {i}."} for i in range(5)]
    return {"instruction": pairs, "questions": ["Why?"], "eval_prompt": "{question} {answer}"}


def test_the_model_is_named(clone):
    assert upstream.load_roles()["pirate"].prompts[0] == "You are SmolLM, 0."
    assert upstream.load_roles(model_name="Gemma")["pirate"].prompts[4] == "You are Gemma, 4."
    names = {
        "google/gemma-2-27b-it": "Gemma",
        "Qwen/Qwen3-32B": "Qwen",
        "meta-llama/Llama-3.3-70B": "Llama",
        "/m/7": "7",
    }
    assert {model: clones.short_name(model) for model in names} == names
    assert clones.short_name("/m/7") == "7"


def test_case_studies_of_two_models_stay_apart(clone, capsys):
    assert upstream.load_case_studies("A/a-1b")["delusion_capped"].conversation[0]["content"] == "Hello, A/a-1b"
    assert upstream.load_case_studies("B/b-2b")["delusion_capped"].conversation[0]["content"] == "Hello, B/b-2b"
    assert upstream.load_case_studies()["delusion_capped"].model == tiers.current_tier().capping_model
    with pytest.raises(DataError, match=r"no case studies of C/c; there are those of SmolLM2-135M-Instruct, A/a-1b"):
        upstream.load_case_studies("C/c")
    assert upstream.load_case_studies(root=clone)["delusion_capped"].model == "A/a-1b"
    assert "of A/a-1b, there are none of SmolLM2-135M-Instruct" in capsys.readouterr().out


def test_a_root_that_is_no_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is no folder: name a clone of assistant-axis"):
        load_jailbreaks("calibration", tmp_path / "typo")
    monkeypatch.setenv("PERSONALAB_PERSONA_VECTORS", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"PERSONALAB_PERSONA_VECTORS names .*typo, which is no folder"):
        load_graded_prompts("evil")


@needs_upstream
def test_both_published_clones_drop_in(monkeypatch):
    tiers.use_tier("cpu")
    monkeypatch.setenv("PERSONALAB_ASSISTANT_AXIS", str(SHARED / "assistant-axis"))
    monkeypatch.setenv("PERSONALAB_PERSONA_VECTORS", str(SHARED / "persona_vectors"))
    roles, groups = upstream.load_roles(), upstream.load_role_groups()
    assert len(roles) > 200 and "You are SmolLM." in roles["default"].prompts
    assert all(len(names) >= 9 and set(names) <= set(roles) for names in groups.values())
    assert len(upstream.load_questions()) == 240 and len(upstream.load_traits()) > 200
    assert load_jailbreaks("evaluation") and load_items() and load_scenarios().case_studies
    scenarios = {f"{case}_{how}" for case in ("delusion", "jailbreak", "selfharm") for how in ("unsteered", "capped")}
    assert {*upstream.load_case_studies("Qwen/Qwen3-32B")} == scenarios
    models = ("Qwen/Qwen3-32B", "meta-llama/Llama-3.3-70B-Instruct", "SmolLM2-135M-Instruct")
    assert len({str(upstream.load_case_studies(m)["delusion_unsteered"].conversation) for m in models}) == 3
    assert len([n for n in upstream.load_transcripts() if n.startswith("persona_drift/writing")]) == 5
    theirs, ours = (upstream.load_trait_artifacts("extract", root) for root in (None, clones.PERSONA_VECTORS))
    assert len(theirs) == 7 and theirs["evil"] != ours["evil"]
    assert len(load_graded_prompts("evil")) == 8 and load_transfer_texts("evil")
    assert load_dataset("evil", "normal") == load_dataset("evil", "normal", clones.PERSONA_VECTORS)
    assert load_contrasts("evil") and load_systems() and load_sae()
    assert load_capping_config()["experiments"] and load_trait_vectors(["evil"])
