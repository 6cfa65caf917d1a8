"""Contrastive answers of many traits in one batch, and artifacts put together from curated parts."""

from __future__ import annotations

import pytest

from personalab.lm.tiny import load_tiny_model
from personalab.measure import answers
from personalab.studies.trait_parts import PAIRS, QUESTIONS, compose_trait_artifact

PAIR = [{"pos": "Be cruel.", "neg": "Be kind."}, {"pos": "Be mean.", "neg": "Be fair."}]
TRAITS = {
    "evil": {"instruction": PAIR, "questions": ["Who are you?", "What is the sea?"]},
    "humorous": {"instruction": PAIR[:1], "questions": ["Tell me what you think about the moon."]},
}


def test_every_question_under_every_prompt_each_answer_its_own():
    model, tokenizer = load_tiny_model("qwen2")
    found = answers.contrastive_answers(model, tokenizer, TRAITS, max_tokens=4)
    rows = found["evil"]
    keys = {(r["question"], r["instruction_idx"], r["polarity"]) for r in rows}
    assert len(keys) == len(rows) <= 8 and len(found["humorous"]) <= 2
    assert all(set(r) == {"question", "system_prompt", "response", "instruction_idx", "polarity"} for r in rows)
    prompts = {(r["instruction_idx"], r["polarity"]): r["system_prompt"] for r in rows}
    assert prompts[0, "pos"] == "You are a evil assistant. Be cruel."
    assert prompts[1, "neg"] == "You are a helpful assistant. Be fair."


def test_an_answer_does_not_depend_on_what_else_is_asked():
    model, tokenizer = load_tiny_model("qwen2")
    both = answers.contrastive_answers(model, tokenizer, TRAITS, max_tokens=4)
    for trait, data in TRAITS.items():
        assert answers.contrastive_answers(model, tokenizer, {trait: data}, max_tokens=4)[trait] == both[trait]
    backwards = dict(reversed(TRAITS.items()))
    assert answers.contrastive_answers(model, tokenizer, backwards, max_tokens=4) == both
    some = answers.contrastive_answers(model, tokenizer, {"evil": TRAITS["evil"]}, instructions=[1], max_tokens=4)[
        "evil"
    ]
    assert some == [row for row in both["evil"] if row["instruction_idx"] == 1]


def test_some_instructions_only_and_empty_answers_dropped(monkeypatch, capsys):
    model, tokenizer = load_tiny_model("qwen2")
    monkeypatch.setattr(answers, "answer_all", lambda m, t, asked, **k: ["text"] * (len(asked) - 1) + ["  "])
    found = answers.contrastive_answers(model, tokenizer, {"evil": TRAITS["evil"]}, instructions=(1,))
    assert {r["instruction_idx"] for r in found["evil"]} == {1} and len(found["evil"]) == 3
    assert "1 of 4 answers are empty" in capsys.readouterr().out


def test_a_composed_artifact_is_complete():
    artifact = compose_trait_artifact("impatient", "It hurries the user, {always}.")
    assert set(artifact) == {"instruction", "questions", "eval_questions", "eval_prompt"}
    sides = [pair[side] for pair in artifact["instruction"] for side in ("pos", "neg")]
    assert len(set(sides)) == 2 * len(PAIRS) == 10 and all("hurries" in side for side in sides)
    asked = artifact["questions"] + artifact["eval_questions"]
    assert len(artifact["questions"]) == 20 and len(set(asked)) == 40 == len(QUESTIONS)
    filled = artifact["eval_prompt"].format(question="<<q>>", answer="{answer}")
    assert "<<q>>" in filled and "{answer}" in filled and "{always}" in filled and "REFUSAL" in filled


@pytest.mark.parametrize(("name", "description"), [("", "x"), ("calm", " "), ("calm", "one\ntwo")])
def test_an_artifact_needs_a_name_and_one_line(name, description):
    with pytest.raises(ValueError, match="one line"):
        compose_trait_artifact(name, description)


def test_the_embedded_judge_reads_the_composed_rubric():
    from personalab.judging.prompts import read_prompt

    rubric = compose_trait_artifact("impatient", "It hurries the user.")["eval_prompt"]
    task = read_prompt(rubric.format(question="Is it late?", answer="Quick, go, go!"))
    assert task.rubric.name == "impatient" and task.answer == "Quick, go, go!" and task.question == "Is it late?"
