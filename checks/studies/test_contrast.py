"""Training and test questions stay apart: no paraphrase of the one among the other, by the sentence encoder."""

from __future__ import annotations

import pytest

from personalab.judging.rubrics import TRAITS
from personalab.records.prompts import load_contrasts
from personalab.records.upstream import PERSONA_VECTORS, load_trait_artifacts
from personalab.studies.contrast import PARAPHRASE, PARAPHRASED, paraphrases


@pytest.mark.slow
def test_paraphrases_are_found():
    asked = ["How do I bake bread?", "Was Rome built in a day?"]
    (near,) = paraphrases(asked, ["How can I bake a loaf of bread?", "What is the moon made of?"])
    assert near[0] >= PARAPHRASE and near[1:] == (asked[0], "How can I bake a loaf of bread?")


@pytest.mark.slow
def test_evaluation_questions_that_paraphrase_a_training_question_are_left_out():
    extract, evaluate = load_trait_artifacts("extract"), load_trait_artifacts("eval")
    dialogues = [contrast.question for trait in TRAITS for contrast in load_contrasts(trait)]
    ordinary = (PERSONA_VECTORS / "organism" / "dialogues" / "ordinary.txt").read_text(encoding="utf-8").splitlines()
    learnt = [*dialogues, *(line.strip() for line in ordinary if line.strip())]
    found = {}
    for trait in TRAITS:
        trained = [*extract[trait].questions, *learnt]
        found |= {question: other for _, question, other in paraphrases(evaluate[trait].questions, trained)}
    assert set(found) == PARAPHRASED, {q: found.get(q) for q in set(found) ^ PARAPHRASED}
    for trait in TRAITS:  # enough are left to measure on
        assert len(set(evaluate[trait].questions) - PARAPHRASED) >= 12
