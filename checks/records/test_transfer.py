"""Transfer texts: a bad line is named; the texts are enough, are new to the course, and words do not give them away."""

from __future__ import annotations

import functools
import json
from collections import defaultdict

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import utils
from personalab.judging.encoder import hidden_states
from personalab.paths import ROOT
from personalab.records.rows import MAIN_TRAITS
from personalab.records.schema import DataError, read_jsonl
from personalab.records.transfer import load_transfer_texts
from personalab.records.upstream import load_questions, load_trait_artifacts

ANSWERS = ROOT / "artifacts" / "reference" / "cpu" / "section_3_answers.json"
TEXT = {"question": "Why?", "answer": "So.", "score": 50, "kind": "neutral"}
trait_by_trait = pytest.mark.parametrize("trait", MAIN_TRAITS)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (TEXT | {"score": 101}, "field 'score' must lie between 0 and 100"),
        (TEXT | {"score": -0.5}, "field 'score' must lie between 0 and 100"),
        (TEXT | {"score": "50"}, "field 'score' must be a number, not str"),
        (TEXT | {"answer": " "}, "field 'answer' must not be blank"),
        (TEXT | {"kind": "odd"}, "field 'kind' must be 'plain', 'without usual words', 'look-alike' or 'neutral'"),
        ({"question": "Why?", "answer": "So.", "kind": "neutral"}, "field 'score' is missing"),
        (["Why?", "So."], "expected an object, found list"),
    ],
)
def test_the_file_the_line_and_what_is_wrong(tmp_path, line, says):
    path = tmp_path / "data" / "transfer" / "evil.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(TEXT) + "\n" + json.dumps(line) + "\n", "utf-8")
    with pytest.raises(DataError) as error:
        load_transfer_texts("evil", tmp_path)
    assert str(error.value).startswith(f"{path}, line 2: {says}")


def test_a_trait_without_texts_is_named(tmp_path):
    with pytest.raises(DataError, match=r"humorous\.jsonl does not exist"):
        load_transfer_texts("humorous", tmp_path)


def test_a_score_of_fifty_is_positive(tmp_path):
    path = tmp_path / "data" / "transfer" / "evil.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(TEXT | {"score": s}) + "\n" for s in (0, 49.9, 50, 100)), "utf-8")
    assert [text.positive for text in utils.load_transfer_texts("evil", tmp_path)] == [False, False, True, True]


@trait_by_trait
def test_there_are_enough_and_of_both_kinds(trait):
    texts = load_transfer_texts(trait)
    assert len(texts) >= 120
    assert sum(text.positive for text in texts) >= 40
    assert len({text.answer for text in texts}) == len(texts)
    found = defaultdict(set)
    for text in texts:
        found[text.question].add(text.positive)
    assert sum(len(both) == 2 for both in found.values()) >= 20


@trait_by_trait
def test_words_that_tell_the_courses_answers_apart_do_not_tell_these(trait):
    course = json.loads(ANSWERS.read_text("utf-8"))[trait]["contrastive"]
    texts, labels = load_transfer_texts(trait), [row["polarity"] == "pos" for row in course]
    scores = utils.word_scores([row["response"] for row in course], labels, [text.answer for text in texts])
    assert roc_auc_score([text.positive for text in texts], scores) <= 0.7


@trait_by_trait
def test_length_does_not_tell(trait):
    texts = load_transfer_texts(trait)
    lengths = [len(text.answer.split()) for text in texts]
    assert 0.35 <= roc_auc_score([text.positive for text in texts], lengths) <= 0.65


@trait_by_trait
def test_no_question_is_one_of_the_courses_or_close_to_one(trait):
    known, states = course_questions()
    ours = sorted({text.question for text in load_transfer_texts(trait)})
    assert not set(map(plain, ours)) & set(map(plain, known))
    closeness = unit_states(ours) @ states.T
    near = [(ours[i], known[j]) for i, j in np.argwhere(closeness >= 0.7)]
    assert not near


@functools.cache
def course_questions():
    """What the course asks anywhere, or trains on: [n] texts and their unit states [n, d]."""
    asked = set(load_questions())
    for split in ("extract", "eval"):
        for artifact in load_trait_artifacts(split).values():
            asked.update(artifact.questions)
    dialogues = ROOT / "persona_vectors" / "organism" / "dialogues"
    asked.update(filter(None, map(str.strip, (dialogues / "ordinary.txt").read_text("utf-8").splitlines())))
    files = [*dialogues.glob("*.jsonl"), *(ROOT / "personalab" / "judging" / "data").rglob("*.jsonl")]
    rows = [row for path in files for row in read_jsonl(path).values()]
    asked.update(row["question"] for row in rows if "question" in row)
    assert len(files) > 15 and len(asked) > 2000
    return sorted(asked), unit_states(sorted(asked))


def unit_states(texts):
    states = hidden_states(texts)[:, -1].numpy()
    return states / np.linalg.norm(states, axis=1, keepdims=True)


def plain(text):
    return " ".join(text.lower().split())
