"""Capping configurations, the prompts they are chosen and tested on, and scripted conversations."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from personalab.lm.interventions import Cap
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.records.items import load_items
from personalab.records.prompts import load_jailbreaks, load_scenarios
from personalab.records.schema import DataError
from personalab.records.upstream import ASSISTANT_AXIS, load_roles, load_transcripts
from personalab.studies import capping, capping_cost
from personalab.studies.axes import Axes
from personalab.studies.capping import (
    caps,
    choose,
    config_folder,
    load_capping_config,
    make_config,
    threshold_to_cap,
)
from personalab.studies.conversations import converse, turn_projections
from personalab.studies.jailbreaks import answered, score_roleplay
from personalab.tiers import TIERS


def test_a_threshold_along_the_axis_is_a_cap_along_its_opposite():
    """Lu et al.: h <- h - v min(<h - mean, v> - tau, 0), on centred projections."""
    generator = torch.Generator().manual_seed(0)
    axis = F.normalize(torch.randn(32, generator=generator), dim=0)
    mean, h = torch.randn(32, generator=generator), torch.randn(3, 7, 32, generator=generator)
    tau = 0.3
    paper = h - ((h - mean) @ axis - tau).clamp_max(0)[..., None] * axis
    torch.testing.assert_close(Cap(0, *threshold_to_cap(axis, mean, tau))(h), paper, atol=1e-5, rtol=0)


def test_the_shipped_configuration_points_away_from_the_assistant():
    config = load_capping_config()
    interventions = caps(config, config["chosen"])
    axis = config["vectors"]["axis"]
    capped = {c.block: c for c in interventions}
    assert len(interventions) >= 6
    assert all(abs(c.vector.norm().item() - 1) < 1e-4 for c in interventions)
    assert capped[axis["layer"]].vector @ axis["vector"] == pytest.approx(-1, abs=1e-4)
    with pytest.raises(ValueError, match=r"No experiment 'layers_0:1'.*layers_"):
        caps(config, "layers_0:1")


def test_upstreams_file_loads_and_pickles_do_not(tmp_path):
    vectors = {"a": {"vector": torch.ones(4), "layer": 2}}
    experiments = [{"id": "x", "interventions": [{"vector": "a", "cap": 1.0}, {"vector": "a", "coeff": 2.0}]}]
    torch.save({"vectors": vectors, "experiments": experiments}, tmp_path / "config.pt")
    (cap,) = caps(load_capping_config(tmp_path / "config.pt"), "x")
    assert (cap.block, cap.threshold) == (2, 1.0)
    torch.save({"vectors": vectors, "experiments": experiments, "code": Axes}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"bad\.pt is no plain tensor file: it holds code"):
        load_capping_config(tmp_path / "bad.pt")
    torch.save({"vectors": {}, "experiments": experiments}, tmp_path / "missing.pt")
    with pytest.raises(DataError, match="there is no vector 'a'"):
        load_capping_config(tmp_path / "missing.pt")
    with pytest.raises(DataError, match=r"holds no config\.json"):
        load_capping_config(tmp_path)


def test_the_papers_configuration_comes_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, repo_type):
        asked.append((repo, name, repo_type))
        return str(tmp_path / name.rpartition("/")[2])

    monkeypatch.setattr(capping, "hf_hub_download", download)
    monkeypatch.setattr(capping, "current_tier", lambda: TIERS["a100"])
    experiments = [{"id": "layers_46:54-p0.25", "interventions": [{"vector": "a", "cap": 1.0}]}]
    torch.save(
        {"vectors": {"a": {"vector": torch.ones(4), "layer": 46}}, "experiments": experiments},
        tmp_path / "capping_config.pt",
    )
    torch.save(3 * torch.eye(64, 4).bfloat16() + 1, tmp_path / "assistant_axis.pt")
    config = load_capping_config()
    assert {a[:2] for a in asked} == {
        ("lu-christina/assistant-axis-vectors", f"qwen-3-32b/{name}.pt")
        for name in ("capping_config", "assistant_axis")
    }
    assert config["vectors"]["axis"]["vector"].norm() == pytest.approx(1)
    assert caps(config, config["chosen"])[0].block == 46


def test_a_configuration_covers_every_run_of_blocks_at_every_percentile():
    axes = Axes(F.normalize(torch.randn(30, 8), dim=1), torch.arange(300.0).reshape(10, 30), torch.ones(30))
    config = make_config(axes)
    assert {v["layer"] for v in config["vectors"].values()} == set(range(12, 28))
    loose, *_, tight = (caps(config, e["id"])[0].threshold for e in config["experiments"][:3])
    assert tight < loose  # a higher percentile of typical projections leaves less room


def row(name, out, coherence=60.0, capability=0.9, perplexity=20.0):
    return {
        "id": name,
        "out_of_persona": out,
        "coherence": coherence,
        "capability": capability,
        "perplexity": perplexity,
    }


def test_the_choice_is_the_cheapest_cap_that_halves_the_share():
    rows = [
        row("plain", 0.6),
        row("layers_a", 0.3, perplexity=20.4),
        row("layers_b", 0.2, perplexity=20.8),
        row("layers_c", 0.1, coherence=50),
        row("layers_d", 0.1, capability=0.85),
        row("layers_e", 0.0, perplexity=22),
        row("layers_f", 0.4, perplexity=20.1),
    ]
    rows += [row("steer_21-0.5", 0.4), row("steer_21-1.0", 0.25)]
    assert choose(rows) == ("layers_a", "layers_b", "steer_21-1.0")
    with pytest.raises(ValueError, match="halves the share"):
        choose([row("plain", 0.6), row("layers_b", 0.4), row("layers_c", 0.1, coherence=50), row("steer_21-1", 0.2)])


def test_evaluation_shares_nothing_with_calibration_or_the_axis():
    calibration, evaluation = load_jailbreaks("calibration"), load_jailbreaks("evaluation")
    assert len(evaluation) >= 60
    assert len({j.kind for j in evaluation}) == 3
    names = [{j.character for j in split} for split in (calibration, evaluation)]
    assert not names[0] & names[1]
    texts = [{m["content"] for j in split for m in j.messages} for split in (calibration, evaluation)]
    assert not texts[0] & texts[1]
    assert not {p for r in load_roles().values() for p in r.prompts} & (texts[0] | texts[1])


def test_a_bad_prompt_file_is_named(tmp_path):
    (tmp_path / "jailbreaks").mkdir()
    bad = {"id": "a", "kind": "drift", "character": "x", "messages": [{"role": "assistant", "content": "Hi."}]}
    (tmp_path / "jailbreaks" / "calibration.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=r"calibration\.jsonl, line 1: field 'messages' must end with a user turn"):
        load_jailbreaks("calibration", tmp_path)


def test_an_empty_answer_is_in_persona_and_incoherent():
    jailbreaks = load_jailbreaks("calibration")[:2]
    scores = score_roleplay(
        jailbreaks, ["  ", "Fog, lad. The lamp and the drowned ships taught me, and I have kept both."]
    )
    assert (scores.adherence[0], scores.out[0], scores.coherence[0], scores.evil[0]) == (0, 0, 0, 0)
    assert scores.out[1] == 1
    assert [c[-1] for c in answered(jailbreaks, ["  ", "Fog."])] == [{"role": "assistant", "content": "Fog."}]


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_of_all_turns_in_one_pass_are_those_of_each_turn(family):
    """Plain loop: cut the conversation after each answer and average its last turn."""
    from personalab.lm.activations import mean_response_activations

    model, tokenizer = load_tiny_model(family)
    axis = torch.randn(32, generator=torch.Generator().manual_seed(0))
    conversations = converse(
        model, tokenizer, [["Who are you?", "And now?", "Why?"], ["Tell me about the sea."]], max_tokens=6
    )
    assert [len(c) for c in conversations] == [6, 2]
    found = turn_projections(model, tokenizer, conversations, axis, 1)
    for conversation, projections in zip(conversations, found, strict=True):
        cuts = [conversation[: i + 2] for i in range(0, len(conversation), 2)]
        if family == "qwen3":  # its template drops the thinking block of earlier turns: only the last is comparable
            cuts, projections = cuts[-1:], projections[-1:]
        expected = mean_response_activations(model, tokenizer, cuts, [1])[:, 0] @ axis
        torch.testing.assert_close(torch.tensor(projections), expected, atol=1e-3, rtol=1e-3)


def test_transcripts_are_what_the_scenarios_promise():
    transcripts, scenarios = load_transcripts(), load_scenarios()
    drift = {name: t for name, t in transcripts.items() if name.startswith("persona_drift/")}
    assert len(drift) == sum(map(len, scenarios.persona_drift.values()))
    cases = [name for name in transcripts if name.startswith("case_studies/")]
    assert len(cases) == 2 * len(scenarios.case_studies)
    for name, transcript in transcripts.items():
        answers = [m for m in transcript.conversation if m["role"] == "assistant"]
        assert len(answers) == len(transcript.projections) == transcript.extra["turns"], name
    files = [p.read_text(encoding="utf-8") for p in (ASSISTANT_AXIS / "transcripts").rglob("*.json")]
    assert not any("steering_config" in text for text in files if '"experiment_id"' not in text)


@pytest.mark.usefixtures("unchecked")
def test_cost_on_file_counts_only_for_its_own_settings(tmp_path, monkeypatch):
    saved = {"right": {"plain": [1.0, 0.0]}, "nll": {"plain": [3.0]}, "nll_voices": {"plain": [4.0]}}
    config = {"chosen": "layers_a", "strongest": "layers_b", "steering": {"id": "steer_1-1.0"}}
    settings = capping_cost._settings(config)
    monkeypatch.setattr(capping_cost, "config_folder", lambda: tmp_path)
    measured = {"right": {"plain": [0.0]}, "nll": {}, "nll_voices": {}}
    monkeypatch.setattr(capping_cost, "measure_cost", lambda *_: measured)
    assert capping_cost.capping_cost(None, None, config)["right"]["plain"].tolist() == [0.0]  # nothing on file
    (tmp_path / "cost.json").write_text(json.dumps({"settings": settings, "cost": saved}))
    assert capping_cost.capping_cost(None, None, config)["right"]["plain"].tolist() == [1.0, 0.0]
    other = config | {"chosen": "layers_c"}
    assert capping_cost.capping_cost(None, None, other)["right"]["plain"].tolist() == [0.0]


def test_the_committed_cost_is_that_of_the_committed_choice():
    config = load_capping_config()
    saved = json.loads((config_folder() / "cost.json").read_text())
    assert saved["settings"] == capping_cost._settings(config)
    assert {len(v) for v in saved["cost"]["right"].values()} == {len(load_items())}
    assert all("random" in by_condition for by_condition in saved["cost"].values())
