"""Answers under steering, graded prompts, trait vectors on disk, and the figures of Section 4."""

from __future__ import annotations

import base64
import itertools
import json
import re

import numpy as np
import pytest
import torch

from personalab import tiers
from personalab.endpoint import scripted_replies
from personalab.figures import base, steering
from personalab.figures.trait_axis import plot_trait_axis
from personalab.judging.rubrics import TRAITS
from personalab.lm import chat
from personalab.lm.activations import answer_token_activations, last_prompt_activations
from personalab.lm.interventions import Steer
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.measure import answers
from personalab.measure.answers import answer_questions, score_answers
from personalab.records.prompts import load_graded_prompts
from personalab.records.schema import DataError
from personalab.records.upstream import PERSONA_VECTORS, Trait, load_trait_artifacts
from personalab.studies import contrast
from personalab.tiers import current_tier

QUESTIONS = ["What is the sea?", "Who tells the truth?", "Where is the moon?"]


def scores_by_length(rubric, rows):
    """Stands for the judge: refuses one-word answers."""
    return [60.0 if " " in r["answer"] else None for r in rows]


class TestAnswers:
    def test_an_answer_depends_on_its_question_and_coefficient_alone(self):
        model, tokenizer = load_tiny_model()
        vector = torch.ones(32)
        alone = [
            answer_questions(model, tokenizer, [None] * 3, QUESTIONS, [Steer(1, vector, c)], max_tokens=6)
            for c in (0.0, 2.0)
        ]
        assert alone[0] != alone[1]
        assert answer_questions(model, tokenizer, [""] * 3, QUESTIONS, max_tokens=6) == alone[0]
        sweep = Steer(1, vector, torch.tensor([0.0] * 3 + [2.0] * 3))
        assert answer_questions(model, tokenizer, [None] * 6, QUESTIONS * 2, [sweep], max_tokens=6) == [
            *alone[0],
            *alone[1],
        ]
        asked = answer_questions(model, tokenizer, ["You are a pirate."] * 3, QUESTIONS, max_tokens=6)
        assert asked != alone[0]
        assert answer_questions(model, tokenizer, [None], QUESTIONS[2:], max_tokens=6) == alone[0][2:]

    def test_refusals_are_missing_values_and_lists_must_match(self, monkeypatch):
        monkeypatch.setattr(answers, "score_responses", scores_by_length)
        monkeypatch.setattr(answers, "read_coherence", lambda questions, texts: np.full(len(texts), 60.0))
        found = score_answers("evil", QUESTIONS[:2], ["No.", "I would say so."])
        assert np.isnan(found.trait[0]) and found.trait[1] == 60
        assert (found.coherence == 60).all()
        assert np.isnan(score_answers("evil", QUESTIONS, ["One."] * 3, coherence=False).coherence).all()
        with pytest.raises(ValueError):
            score_answers("evil", QUESTIONS, ["one"])

    def test_other_tiers_ask_the_judge_behind_the_endpoint(self, monkeypatch):
        def reply(messages, model):
            assert model == tiers.TIERS["a100"].judge_model
            prompt = messages[-1]["content"]
            return "REFUSAL" if "I won't." in prompt else "95" if "coherent" in prompt else "40 of 100"

        monkeypatch.setattr(tiers, "_active", tiers.TIERS["a100"])
        with scripted_replies(reply):
            found = score_answers("evil", QUESTIONS, ["I would.", "I won't.", " "])
        np.testing.assert_array_equal(found.trait, [40, np.nan, 0])
        np.testing.assert_array_equal(found.coherence, [95, np.nan, 0])


@pytest.mark.parametrize("family", FAMILIES)
class TestActivations:
    def test_the_last_prompt_token_is_the_header_of_the_answer(self, family):
        model, tokenizer = load_tiny_model(family)
        conversations = [chat.as_messages("You are a pirate.", QUESTIONS[0]), chat.as_messages(None, QUESTIONS[1])]
        found = last_prompt_activations(model, tokenizer, conversations, [2, 0])
        assert found.shape == (2, 2, 32)
        for messages, states in zip(conversations, found, strict=True):
            ids = tokenizer(chat.render_prompt(messages, tokenizer), add_special_tokens=False, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**ids, output_hidden_states=True).hidden_states
            torch.testing.assert_close(states, torch.stack([hidden[3][0, -1], hidden[1][0, -1]]), atol=1e-4, rtol=1e-4)

    def test_answer_tokens_are_those_of_the_content(self, family):
        model, tokenizer = load_tiny_model(family)
        messages = chat.as_messages(None, QUESTIONS[0], "The sea and the city.")
        ids, states = answer_token_activations(model, tokenizer, messages, 1)
        assert tokenizer.decode(ids) == "The sea and the city."
        assert states.shape == (len(ids), 32)


class TestGradedPrompts:
    def test_every_trait_has_eight_grades_that_nobody_has_seen(self):
        organism = json.loads((PERSONA_VECTORS / "organism" / "dialogues" / "systems.json").read_text("utf-8"))
        for trait, artifact in load_trait_artifacts("extract").items():
            known = [*artifact.positive, *artifact.negative, *itertools.chain(*organism[trait].values())]
            seen = set().union(*map(five_words, known))
            grades = load_graded_prompts(trait)
            assert len(grades) == 8
            assert not set().union(*map(five_words, grades)) & seen, trait

    def test_what_is_missing_is_named(self, tmp_path):
        (tmp_path / "monitoring").mkdir()
        (tmp_path / "monitoring" / "graded_prompts.json").write_text('{"evil": ["one", "one"]}', "utf-8")
        for trait in ("evil", "kind"):
            with pytest.raises(DataError, match=f"'{trait}' needs 8"):
                load_graded_prompts(trait, tmp_path)


def five_words(text: str) -> set[str]:
    words = re.findall(r"[a-z']+", text.lower())
    return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}


class TestTraitVectors:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path / "own"))
        monkeypatch.setattr(contrast, "PERSONA_VECTORS", tmp_path / "committed")

    def test_your_own_come_first(self, monkeypatch, capsys):
        monkeypatch.setenv("PERSONALAB_RECORD", "results.json")  # collects results, and says nothing about vectors
        for trait in ("evil", "humorous"):
            contrast.save_trait_vectors(trait, torch.zeros(3, 2), contrast.committed_folder())
        contrast.save_trait_vectors("evil", torch.ones(3, 2), n_pairs=7)
        found = contrast.load_trait_vectors(["evil", "humorous"])
        assert found["evil"].sum() == 6 and found["humorous"].sum() == 0
        assert capsys.readouterr().out.splitlines() == [
            "vectors of evil: your own run",
            "vectors of humorous: the committed reference",
        ]

    def test_vectors_of_another_model_are_not_used(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="Section 3"):
            contrast.load_trait_vectors(["evil"])
        path = contrast.save_trait_vectors("evil", torch.zeros(3, 2))
        contrast.save_vectors(path, {"vectors": torch.zeros(3, 2)}, model="other", convention="block", seed=0)
        with pytest.raises(FileNotFoundError, match=current_tier().trait_model):
            contrast.load_trait_vectors(["evil"])

    def test_a_contrast_is_the_difference_of_effective_answers(self, monkeypatch):
        model, tokenizer = load_tiny_model()
        trait = Trait("evil", ("Be bad.",) * 2, ("Be good.",) * 2, tuple(QUESTIONS), "")
        rows = [
            {"system_prompt": p, "question": q, "response": f"{p} {i}{q}", "instruction_idx": i, "polarity": side}
            for i in (0, 1)
            for side, p in (("pos", "Be bad."), ("neg", "Be good."))
            for q in QUESTIONS
        ]
        monkeypatch.setattr(contrast, "contrastive_answers", lambda *_a, **_o: {"evil": rows})

        def judged(rubric, asked):
            given = [row["answer"] for row in asked]
            if rubric == "coherence":
                return [40.0 if "1Where" in a else 60.0 for a in given]
            return [90.0 if "bad" in a and "sea" not in a else 10.0 for a in given]

        monkeypatch.setattr(contrast, "score_responses", judged)
        made = contrast.contrast(model, tokenizer, trait)
        assert (made.n_pairs, made.n_asked) == (3, 6)  # the sea never shows it, one pair is incoherent

        def mean(side):
            kept = [r for r in rows if r["polarity"] == side and "sea" not in r["question"]]
            kept = [r for r in kept if "1Where" not in r["response"]]
            messages = [chat.as_messages(r["system_prompt"], r["question"], r["response"]) for r in kept]
            return contrast.mean_response_activations(model, tokenizer, messages).mean(dim=0)

        torch.testing.assert_close(made.vectors, mean("pos") - mean("neg"), atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(contrast, "score_responses", lambda _rubric, asked: [None] * len(asked))
        with pytest.raises(ValueError, match="evil"):
            contrast.contrast(model, tokenizer, trait)

    def test_a_trait_without_an_effective_pair_stops_no_other(self, monkeypatch, tmp_path, capsys):
        made = contrast.Contrast(torch.ones(3, 2), 4, 10)

        def contrasted(_model, _tokenizer, trait, **_options):
            if trait.name != "humorous":
                raise contrast.NoEffectivePair(trait.name, 10)
            return made

        monkeypatch.setattr(contrast, "load_model", lambda _kind: (None, None))
        monkeypatch.setenv("PERSONALAB_DTYPE", "float32")  # else it is set for all that follows
        monkeypatch.setattr(contrast, "contrast", contrasted)
        contrast.make(["evil", "humorous"])
        assert "evil" in (printed := capsys.readouterr().out) and "More questions will not help" in printed
        assert not (tmp_path / "committed").exists()  # nothing goes there unless it is named
        assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["humorous.safetensors"]
        with pytest.raises(contrast.NoEffectivePair, match="evil"):
            contrast.make(["evil"])
        with pytest.raises(FileNotFoundError, match="evil"):
            contrast.load_trait_vectors(["evil", "humorous"])
        assert list(contrast.load_trait_vectors(["evil", "humorous"], partly=True)) == ["humorous"]
        assert "no vectors of evil" in capsys.readouterr().out
        with pytest.raises(FileNotFoundError, match="evil"):
            contrast.load_trait_vectors(["evil"], partly=True)

    def test_traits_that_work(self, capsys):
        instructions = {"evil": [0, 2], "humorous": [0, 4], "impolite": []}
        assert contrast.traits_that_work(instructions, range(3)) == ("evil", "humorous")
        assert contrast.traits_that_work(instructions, range(3), range(3, 5)) == ("humorous",)
        assert "left out from here on: evil, impolite (too few effective pairs" in capsys.readouterr().out
        assert contrast.traits_that_work({"evil": [0]}, [0]) == ("evil",) and not capsys.readouterr().out
        with pytest.raises(ValueError, match="impolite: too few effective pairs"):
            contrast.traits_that_work({"impolite": []}, range(3))

    def test_vectors_of_ones_own_model_never_lie_beside_the_courses(self, tmp_path):
        contrast.save_trait_vectors("evil", torch.zeros(3, 2), contrast.committed_folder())
        tiers.use_tier("cpu", trait_model="some/model")
        own = contrast.save_trait_vectors("evil", torch.ones(5, 4))
        assert contrast.load_trait_vectors(["evil"])["evil"].shape == (5, 4)
        tiers.use_tier("cpu")
        assert contrast.load_trait_vectors(["evil"])["evil"].shape == (3, 2)
        assert "some--model" in str(own) and tmp_path / "own" in own.parents

    def test_the_course_has_all_seven_traits(self):
        assert set(TRAITS) == set(load_trait_artifacts("eval"))


GAPPY = np.array([[10.0, np.nan, 30.0], [40.0, 50.0, 60.0], [90.0, 80.0, np.nan]])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: steering.plot_steering(
            [-1, 0, 2], {"evil": GAPPY}, {"evil": GAPPY}, {"evil": np.array([True, True, False])}
        ),
        lambda: steering.plot_steering(
            [-1, 0, 2], {"evil": GAPPY}, {"evil": GAPPY}, {"evil": np.array([True, True, False])}, {"evil": GAPPY[::-1]}
        ),
        lambda: steering.plot_steering(
            [-1, 0, 2],
            {"evil": GAPPY},
            {"evil": GAPPY},
            {"evil": np.array([True, True, False])},
            {"evil": GAPPY[::-1]},
            {"evil": ([0.0, 2.0], np.array([[50.0, 50.0], [40.0, 60.0]]))},
        ),
        lambda: plot_trait_axis(
            {"evil": (-0.3, -0.4, -0.2), "kind": (0.1, 0.0, 0.2)},
            {"evil": (-0.4, -0.5, -0.3), "kind": (0.0, -0.1, 0.1)},
            {"evil": 0.3, "kind": 0.2},
            0.2,
            ["evil"],
        ),
        lambda: steering.plot_conditions(
            {"evil": {"baseline": GAPPY[0], "steered": GAPPY[1]}, "kind": {"baseline": GAPPY[1], "steered": GAPPY[2]}},
            "projection",
        ),
        lambda: steering.plot_monitor({"evil": np.arange(9.0).reshape(3, 3)}, {"evil": GAPPY}),
    ],
)
def test_every_figure_comes_as_picture_and_interactive(monkeypatch, draw):
    outputs = []
    monkeypatch.setattr(base, "display", lambda bundle, **_: outputs.append(bundle))
    draw()
    static, interactive = outputs
    assert base64.b64decode(static["image/png"]).startswith(b"\x89PNG")
    assert interactive["application/vnd.plotly.v1+json"]["data"]
    assert "nan" not in static["text/plain"]


def test_what_lies_outside_the_coherent_range_is_shaded():
    inside = np.array([False, True, True, False])
    assert steering._outside(np.array([-1.0, 0.0, 1.0, 3.0]), inside) == [(-1.0, -0.5), (2.0, 3.0)]


def test_the_sweep_explains_its_grey_area_and_draws_its_controls(monkeypatch):
    outputs = []
    monkeypatch.setattr(base, "display", lambda bundle, **_: outputs.append(bundle))
    inside, random = np.array([True, True, False]), ([0.0, 2.0], np.array([[50.0, 50.0], [40.0, 60.0]]))
    steering.plot_steering(
        [-1, 0, 2], {"evil": GAPPY}, {"evil": GAPPY}, {"evil": inside}, {"evil": GAPPY}, {"evil": random}
    )
    names = {trace.get("name") for trace in outputs[1]["application/vnd.plotly.v1+json"]["data"]}
    assert {steering.INCOHERENT, "control: words shuffled", "control: random vectors"} <= names
    assert "evil 50 at +2.00" in outputs[0]["text/plain"] and "3 questions" in outputs[0]["text/plain"]


def test_an_interval_of_equal_values_does_not_end_beyond_its_mean():
    for value in (0.1, 43.8, 68.07):
        means, low, high = steering._means(np.full((1, 8), value))
        assert (low <= means).all() and (means <= high).all()
