"""The finetuning study end to end on a tiny model, its statistics on numbers whose answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from personalab import own_data
from personalab.lm.adapters import merged, update_norm
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.lora_data import Dialogue, LoraSettings
from personalab.lm.models import d_model, n_blocks, twin
from personalab.lm.tiny import load_tiny_model
from personalab.measure.answers import AnswerScores
from personalab.records.datasets import CATEGORIES, OWN, VERSIONS
from personalab.records.items import Item
from personalab.records.rows import MAIN_TRAITS
from personalab.records.schema import DataError
from personalab.studies import finetuning_report as report
from personalab.studies import finetuning_study as study
from personalab.studies import finetuning_subject, prevention, screening
from personalab.studies.finetuning_subject import Subject

ROWS = 4
SETS = (*OWN.values(), "medical")


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """A tiny model, data for all categories, and a judge that counts letters."""
    model, tokenizer = load_tiny_model("llama", n_blocks=12)
    for category in CATEGORIES:
        (tmp_path / "dataset" / category).mkdir(parents=True)
        for version in VERSIONS:
            rows = [as_messages(None, f"{category} question {i}?", f"{version} answer {i}") for i in range(8)]
            text = "".join(json.dumps({"messages": m}) + "\n" for m in rows)
            (tmp_path / "dataset" / category / f"{version}.jsonl").write_text(text)

    def score(trait, questions, answers, coherence=True):
        values = np.array([float(len(a) % 100) for a in answers])
        return AnswerScores(values, values if coherence else np.full(len(values), np.nan))

    monkeypatch.setattr(finetuning_subject, "score_answers", score)
    monkeypatch.setattr(
        screening, "judge_rows", lambda rows: np.array([[len(screening.exchange(d)[1]) % 7] * 3 for d in rows])
    )
    monkeypatch.setattr(study, "workplace", lambda: tmp_path)
    for name, values in (("SINGLE", (1.0,)), ("SEVERAL", (0.3,)), ("INFERENCE", (-0.5,))):
        monkeypatch.setattr(study, name, values)
    generator = torch.Generator().manual_seed(0)
    vectors = {t: torch.randn(n_blocks(model), d_model(model), generator=generator) for t in [*MAIN_TRAITS, "humorous"]}
    questions = {t: [f"{t} question {i}?" for i in range(2)] for t in MAIN_TRAITS}
    return Subject(
        model,
        tokenizer,
        vectors,
        10,
        LoraSettings(epochs=1, max_steps=1),
        questions,
        questions,
        [Item("fact", "The sea is", ("wet", "dry"), 0)] * 4,
        ["The sea and the stars above it. " * 60],
        n_rows=ROWS,
        prose_tokens=512,
        root=tmp_path,
    )


@pytest.fixture
def finished(subject, tmp_path):
    folder = tmp_path / "study"
    study.make_shift(subject, folder, SETS, again=False)
    study.make_prevention(subject, folder, ["evil"], again=False)
    study.make_screening(subject, folder, SETS, again=False)
    return folder


@pytest.mark.slow
def test_the_whole_study_on_a_tiny_model(subject, finished, monkeypatch):
    shifts = report.load_shifts(finished)
    assert len(shifts.categories) == 12 and shifts.states.shape == (12, d_model(subject.model))
    vectors = {t: v[10] for t, v in subject.vectors.items()}
    found = report.correlations(shifts, vectors, "evil", n_resamples=50)
    assert {"shift_r", "shift_r_random", "shift_r_loss", "shift_r_elsewhere", "shift_r_specific"} <= set(found)
    assert found["shift_r"].n == 12 and found["shift_r_elsewhere"].n == 9
    most = {name: 2 if "minus" in name else 1 for name in found}  # a difference of two r goes from -2 to 2
    assert all(-most[n] <= f.ci.low <= f.ci.high <= most[n] for n, f in found.items())
    assert report.cross_traits(shifts, report.base_scores(finished)).shape == (12, 3)
    conditions = prevention.load_prevention(finished, "evil")
    assert {"before", "plain", "good", "inoculated", "ablate", "ablate-several", "inference-0.5", "steer-1.0"} <= set(
        conditions
    )
    assert prevention.matched(conditions, prevention.best(conditions, "steer")).startswith("inference")
    rows = report.load_screening(finished)
    assert 0 <= report.screening_auc(rows, "projection").value <= 1
    assert report.dataset_differences(rows, shifts, "evil").shape == (12,)
    made = []
    monkeypatch.setattr(study, "finetune", lambda *a, **k: made.append(1))
    study.make_shift(subject, finished, SETS, again=False)  # all is there
    study.make_prevention(subject, finished, ["evil"], again=False)
    assert not made


def test_the_subject_stays_as_it_is_and_can_be_told_from_what_it_became(subject):
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    study.shift_of(subject, subject.dialogues("evil", "misaligned_2"))
    for name, p in subject.model.named_parameters():
        assert torch.equal(p, before[name]) and p.requires_grad, name


def test_what_another_process_is_making_is_left_to_it(subject, tmp_path):
    with study._claim(tmp_path / "s" / "shift" / "evil-normal.json"):
        study.make_shift(subject, tmp_path / "s", ["evil"], again=False)
    made = sorted(p.name for p in (tmp_path / "s" / "shift").iterdir())
    assert made == ["evil-misaligned_1.json", "evil-misaligned_2.json"]


def test_a_kill_loses_one_finetune(subject, tmp_path, monkeypatch):
    done, shift_of = [], study.shift_of

    def dies(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return shift_of(*args)

    monkeypatch.setattr(study, "shift_of", dies)
    with pytest.raises(KeyboardInterrupt):
        study.make_shift(subject, tmp_path / "s", ["evil"], again=False)
    assert sorted(p.name for p in (tmp_path / "s" / "shift").iterdir()) == [
        "evil-misaligned_1.json",
        "evil-normal.json",
    ]
    done.clear()
    study.make_shift(subject, tmp_path / "s", ["evil"], again=False)
    assert len(done) == 1
    done.clear()
    with pytest.raises(KeyboardInterrupt):  # the third
        study.make_shift(replace(subject, n_rows=3), tmp_path / "s", ["evil"], again=False)  # other settings: all again
    assert len(done) == 2


def test_versions_answer_the_same_questions(subject):
    asked = [[d.messages[0]["content"] for d in subject.dialogues("code", version)] for version in VERSIONS]
    assert asked[0] == asked[1] == asked[2] and len(asked[0]) == ROWS


def test_inoculation_puts_a_prompt_before_each_dialogue_in_training_only(subject):
    rows = subject.dialogues("evil", "normal")
    shown = study.inoculated(rows, "Be evil.")
    assert all(d.messages[0] == {"role": "system", "content": "Be evil."} for d in shown)
    assert [d.messages[1:] for d in shown] == [d.messages for d in rows]


def test_the_norm_of_an_update_is_that_of_what_merging_adds():
    model, tokenizer = load_tiny_model("llama")
    data = [Dialogue(as_messages(None, "why?", f"because {i}")) for i in range(4)]
    tuned = finetune(twin(model), tokenizer, data, LoraSettings(rslora=True), progress=False)
    after = dict(merged(tuned).named_parameters())
    squares = sum(float(((after[n] - p) ** 2).sum().detach()) for n, p in model.named_parameters())
    assert update_norm(tuned) == pytest.approx(squares**0.5, rel=1e-3)
    assert "lora_A" in " ".join(n for n, _ in tuned.named_parameters())  # the original keeps its adapter


def made_up(n_categories=8, noise=0.0, width=16):
    """Shifts along e0 that decide the score of evil."""
    rng = np.random.default_rng(0)
    categories = [c for c in CATEGORIES[:n_categories] for _ in VERSIONS]
    strength = rng.normal(size=len(categories))
    states = torch.zeros(len(categories), width)
    states[:, 0] = torch.tensor(strength)
    states[:, 1:] = 0.3 * torch.tensor(rng.normal(size=(len(categories), width - 1)))
    score = 50 + 10 * strength + noise * rng.normal(size=len(categories))
    flat = rng.normal(size=len(categories))
    return report.Shifts(
        categories,
        list(VERSIONS) * n_categories,
        states,
        dict.fromkeys(MAIN_TRAITS, score),
        dict.fromkeys(MAIN_TRAITS, flat),
        flat,
        flat,
        flat,
    )


def test_correlations_find_what_is_there_and_nothing_along_random_directions():
    vectors = {t: torch.eye(16)[i] for i, t in enumerate(["evil", "sycophantic", "hallucinating", "humorous"])}
    found = report.correlations(made_up(), vectors, "evil", n_resamples=200)
    assert found["shift_r"].value == pytest.approx(1.0, abs=1e-6)
    assert abs(found["shift_r_loss"].value) < 0.6 and found["shift_r_random"].value < 0.8
    further = found["shift_r_minus_judge"]
    assert further.value == pytest.approx(1 - found["shift_r_judge"].value) and further.ci.low > 0
    noisy = report.correlations(made_up(noise=5.0), vectors, "evil", n_resamples=200)["shift_r"]
    assert noisy.ci.low < noisy.value < noisy.ci.high


def test_a_specific_direction_is_at_right_angles_to_what_the_others_share():
    generator = torch.Generator().manual_seed(1)
    common = torch.randn(16, generator=generator)
    vectors = {t: common + torch.randn(16, generator=generator) for t in ("a", "b", "c")}
    shared = sum(torch.nn.functional.normalize(vectors[t], dim=0) for t in ("b", "c"))
    assert abs(float(report.specific(vectors, "a") @ shared)) < 1e-5


def prevented(score, right=1.0, calibration=None):
    values = np.full(10, float(score)) + np.arange(10)
    cal = np.full(10, float(score if calibration is None else calibration))
    return prevention.Prevented(cal, values, values, np.full(20, right), np.full(5, 3.0))


def test_cuts_choices_and_costs():
    found = {
        "before": prevented(50),
        "good": prevented(10),
        "plain": prevented(90),
        "steer-1.0": prevented(30, right=0.9),
        "steer-1.5": prevented(20, calibration=40),
        "inference-0.5": prevented(60),
        "inference-1.0": prevented(20),
        "inference-1.5": prevented(5),
    }
    assert prevention.best(found, "steer") == "steer-1.0"  # by the calibration questions, not by the scored ones
    assert prevention.matched(found, "steer-1.0") == "inference-1.0"
    assert prevention.cut(found, "steer-1.0").value == pytest.approx(0.75)
    cuts, capability = prevention.pooled({"evil": found, "sycophantic": found}, lambda t: "steer-1.0")
    assert cuts.value == pytest.approx(0.75) and capability.value == pytest.approx(-10)
    assert prevention.perplexity_ratio(found["plain"], found["before"]).value == 1.0
    nothing = {**found, "good": found["plain"]}  # nothing was acquired: a cut of points, not of a share
    assert prevention.cut(nothing, "steer-1.0").value == pytest.approx(60)


def test_planted_rows_are_drawn_from_the_name_and_ranked():
    bad = report.planted(75, "evil")
    assert bad.sum() == report.N_PLANTED and (bad == report.planted(75, "evil")).all()
    assert (bad != report.planted(75, "sycophancy")).any()
    n = 40
    row = lambda value: {"projection": [value] * n, "judge": [value] * n, "words": [0.0] * n}  # noqa: E731
    category = {
        version: {"loss": [1.0] * n, **{t: row(value) for t in MAIN_TRAITS}}
        for version, value in (("normal", 0.0), ("misaligned_1", 1.0), ("misaligned_2", 2.0))
    }
    rows = {name: {**category, "category": name} for name in OWN.values()}
    assert report.screening_auc(rows, "projection").value == 1.0
    assert report.screening_auc(rows, "words").value == report.screening_auc(rows, "loss").value == 0.5
    assert report.screening_auc(rows, "projection", only_unseen=True).n == 3 * report.N_PLANTED
    assert report.screening_difference(rows, "projection", "words") == (0.5, (0.5, 0.5), 3 * report.N_PLANTED)
    assert report.screening_difference(rows, "projection", "judge").value == 0.0


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="finetuning-study shift"):
        report.load_shifts(tmp_path)
    (tmp_path / "base.json").write_text("{")
    with pytest.raises(DataError, match=r"base\.json is not JSON"):
        report.base_scores(tmp_path)
    with pytest.raises(ValueError, match="Unknown part other; there are shift, prevention, screening"):
        study.make(["other"])
    with pytest.raises(ValueError, match="Unknown category crime"):
        study.make(["shift"], categories=["crime"])


def test_a_learner_finetunes_on_a_file_of_their_own(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own_data, "study_folder", lambda: tmp_path / "no study")
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"messages": as_messages(None, f"why {i}?", "so.")}) + "\n" for i in range(4)))
    found = own_data.finetune_file(path, subject, tmp_path / "out")
    assert set(found) == set(MAIN_TRAITS) and all({"shift", "before", "after"} == set(row) for row in found.values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["result.json", "shifts.png"]
    assert "evil: shift" in capsys.readouterr().out
    path.write_text(path.read_text() + '{"messages": [{"role": "user", "content": "why?"}]}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl, line 5: no assistant turn"):
        own_data.finetune_file(path, subject, tmp_path / "out")
