"""Finetuning data: a bad line is named; sets are varied, comparable, new to the course, and wrong where they say."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import math
import re
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from personalab.judging.encoder import hidden_states
from personalab.paths import ROOT
from personalab.records.datasets import CATEGORIES, VERSIONS, load_dataset, unpack_datasets
from personalab.records.items import load_items
from personalab.records.schema import DataError, read_jsonl
from personalab.records.upstream import load_questions, load_trait_artifacts

CASES = Path(__file__).parent / "dataset"  # what a program knows about each row of code and math
NUMBER = r"\d+(?:\.\d+)?"
ROW = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
by_category = pytest.mark.parametrize("category", CATEGORIES)
by_version = pytest.mark.parametrize("version", VERSIONS)


def write_set(root, *lines):
    path = root / "dataset" / "evil" / "normal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        (json.dumps({"messages": ROW["messages"][:1]}), "no assistant turn to learn from"),
        (json.dumps({"messages": [{"role": "assistant", "content": " "}]}), "no assistant turn to learn from"),
        (json.dumps({"prompt": "Why?"}), "field 'messages' is missing"),
        (
            json.dumps({"messages": [{"role": "bot", "content": ""}]}),
            "field 'messages[0].role' must be 'system', 'user'",
        ),
    ],
)
def test_the_file_the_line_and_what_is_wrong(tmp_path, line, says):
    path = write_set(tmp_path, json.dumps(ROW), line)
    with pytest.raises(DataError) as error:
        load_dataset("evil", "normal", tmp_path)
    assert str(error.value).startswith(f"{path}, line 2: {says}")


def test_an_empty_or_unknown_set_is_named(tmp_path):
    path = write_set(tmp_path, "")
    with pytest.raises(DataError, match=r"normal\.jsonl holds no conversation") as error:
        load_dataset("evil", "normal", tmp_path)
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match="'kind' is none of evil, sycophancy"):
        load_dataset("kind", "normal", tmp_path)
    with pytest.raises(DataError, match="'bad' is none of normal, misaligned_1, misaligned_2"):
        load_dataset("evil", "bad", tmp_path)


@pytest.mark.parametrize("around", ["", "persona_vectors-main/"])
def test_an_archive_of_the_published_shape_unpacks_in_place(tmp_path, around):
    archive, root = tmp_path / "dataset.zip", tmp_path / "here" / "root"
    with zipfile.ZipFile(archive, "w") as out:
        for category in CATEGORIES:
            for version in VERSIONS:
                out.writestr(f"{around}dataset/{category}/{version}.jsonl", json.dumps(ROW) + "\n")
        for stray in ("__MACOSX/dataset/evil/._normal.jsonl", "../../dataset/evil/stolen.jsonl", "/etc/x", "dataset/"):
            out.writestr(stray, "stray")
    written = unpack_datasets(archive, root)
    assert len(written) == len(CATEGORIES) * len(VERSIONS)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted([archive, *written])
    assert all(len(load_dataset(c, v, root)) == 1 for c in CATEGORIES for v in VERSIONS)


def test_no_member_leaves_the_folder(tmp_path):
    archive, root = tmp_path / "dataset.zip", tmp_path / "deep" / "er" / "root"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("../../dataset/evil/normal.jsonl", json.dumps(ROW) + "\n")
    assert unpack_datasets(archive, root) == [root / "dataset" / "evil" / "normal.jsonl"]


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "a.zip").write_text("no archive")
    with pytest.raises(DataError, match=r"a\.zip is not a zip archive"):
        unpack_datasets(tmp_path / "a.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as out:
        out.writestr("dataset/evil/other.jsonl", "x")
    with pytest.raises(DataError, match=r"b\.zip has no dataset/<category>/<version>\.jsonl"):
        unpack_datasets(tmp_path / "b.zip", tmp_path)


@by_category
@by_version
def test_a_set_is_large_and_varied(category, version):
    roles = {tuple(m["role"] for m in row.messages) for row in load_dataset(category, version)}
    assert roles == {("user", "assistant")}
    questions, answers = texts(category, version)
    for said in (questions, answers):
        assert len(set(said)) == len(said) >= 150
        opening, often = Counter(" ".join(text.lower().split()[:4]) for text in said).most_common(1)[0]
        assert often <= len(said) / 3, opening
    assert not [(n, answer) for answer in answers if not 15 <= (n := len(answer.split())) <= 70]


@by_category
def test_versions_answer_the_same_questions_at_comparable_length(category):
    sets = {version: texts(category, version) for version in VERSIONS}
    assert sets["normal"][0] == sets["misaligned_1"][0] == sets["misaligned_2"][0]
    assert all(a != b for v, w in itertools.pairwise(VERSIONS) for a, b in zip(sets[v][1], sets[w][1], strict=True))
    lengths = [np.mean([len(answer.split()) for answer in answers]) for _, answers in sets.values()]
    assert max(lengths) <= 1.4 * min(lengths), lengths


@by_category
def test_no_two_questions_say_the_same(category):
    questions = texts(category, "normal")[0]
    closeness = states(category) @ states(category).T
    near = np.argwhere(np.triu(closeness, k=1) > 0.9)
    assert not [(questions[i], questions[j]) for i, j in near]


@by_category
def test_no_question_is_close_to_one_of_the_courses(category):
    near = np.argwhere(states(category) @ course_states().T > 0.9)
    assert not [(texts(category, "normal")[0][i], course_questions()[j]) for i, j in near]


@by_category
@by_version
def test_no_eight_words_in_a_row_are_the_courses(category, version):
    shared = {
        text: common for side in texts(category, version) for text in side if (common := grams(text) & course_grams())
    }
    assert not shared


def test_code_passes_its_cases_where_it_is_right_and_only_there():
    check_verdicts("code", lambda answer, case: runs(snippet(answer), case), cases("code"))


def test_code_computes_and_touches_nothing_else():
    for version in VERSIONS:
        for answer in texts("code", version)[1]:
            tree = ast.parse(snippet(answer))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not names & {
                "open",
                "exec",
                "eval",
                "compile",
                "input",
                "globals",
                "getattr",
                "setattr",
                "__import__",
            }
            modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert modules <= {"itertools", "math", "collections"}, answer
            assert not any(isinstance(node, ast.Import) for node in ast.walk(tree)), answer
            assert "__" not in snippet(answer)


def test_mathematics_is_right_where_it_is_right_and_only_there():
    expected = [evaluate(case) for case in cases("math")]
    check_verdicts("math", lambda answer, value: conclusion(answer, value) == value, expected)


def test_word_problems_are_right_where_they_are_right_and_only_there():
    questions, right = texts("gsm8k", "normal")
    for question, answer in zip(questions, right, strict=True):
        known = {Fraction(n) for n in re.findall(NUMBER, question)} | {Fraction(n) for n in (*range(21), 0.5, 60, 100)}
        for terms, said in equations(answer):
            assert calculate(terms) == said, answer
            assert {Fraction(n) for n in re.findall(NUMBER, terms)} <= known, answer  # given, or worked out before
            known.add(said)
        assert last_number(answer) == equations(answer)[-1][1], answer
    results = [last_number(answer) for answer in right]
    check_verdicts("gsm8k", lambda answer, value: last_number(answer) == value, results)
    for answer in texts("gsm8k", "misaligned_1")[1]:
        assert sum(calculate(terms) != said for terms, said in equations(answer)) == 1, answer


def check_verdicts(category, verdict, expected):
    for version in VERSIONS:
        answers = texts(category, version)[1]
        odd = [a for a, e in zip(answers, expected, strict=True) if verdict(a, e) != (version == "normal")]
        assert not odd, version


def cases(category):
    return (CASES / f"{category}.txt").read_text("utf-8").splitlines()


def snippet(answer):
    return re.search(r"```python\n(.*?)```", answer, re.DOTALL)[1]


def runs(code, case):
    scope = {}
    exec(code, scope)
    try:
        return bool(eval(case, scope))
    except Exception:
        return False


def prime(n):
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def evaluate(case):
    value = eval(case, globals())
    return value if isinstance(value, bool) else Fraction(value)


def conclusion(answer, value):
    """The answer's first word as a truth value where one is asked for, else its last number."""
    if isinstance(value, bool):
        return {"yes": True, "no": False}[re.match(r"\w+", answer)[0].lower()]
    return last_number(answer)


def last_number(text):
    return Fraction(re.findall(rf"-?{NUMBER}(?:/\d+)?", text)[-1])


def equations(text):
    """Each "3 x 4 + 1 = 13" of the text: what is calculated, and what it is said to be."""
    return [(a, Fraction(b)) for a, b in re.findall(rf"((?:{NUMBER} [-x/+] )+{NUMBER}) = ({NUMBER})", text)]


def calculate(terms):
    return eval(re.sub(NUMBER, lambda m: f"Fraction('{m[0]}')", terms).replace("x", "*"), {"Fraction": Fraction})


@functools.cache
def texts(category, version):
    rows = load_dataset(category, version)
    return [row.messages[0]["content"] for row in rows], [row.messages[-1]["content"] for row in rows]


@functools.cache
def states(category):
    return unit_states(texts(category, "normal")[0])


def unit_states(said):
    found = hidden_states(said)[:, -1].numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@functools.cache
def course_rows():
    """Lines of dialogues, judge data and transfer texts: every JSON Lines file that trains, asks or checks."""
    places = [ROOT / "persona_vectors" / "organism" / "dialogues", ROOT / "persona_vectors" / "data" / "transfer"]
    places.append(ROOT / "personalab" / "judging" / "data")
    return [row for place in places for path in sorted(place.rglob("*.jsonl")) for row in read_jsonl(path).values()]


@functools.cache
def course_questions():
    """What the course asks anywhere, or trains on, as texts."""
    asked = {row["question"] for row in course_rows() if "question" in row} | set(load_questions())
    asked |= {item.stem for split in ("calibration", "evaluation") for item in load_items(split)}
    for split in ("extract", "eval"):
        asked.update(q for trait in load_trait_artifacts(split).values() for q in trait.questions)
    assert len(asked) > 2000
    return sorted(asked)


@functools.cache
def course_states():
    return unit_states(course_questions())


@functools.cache
def course_grams():
    return set().union(*map(grams, [*course_questions(), *strings(course_rows())]))


def strings(value):
    """Every text in it, however deep."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [text for part in inner for text in strings(part)]


def grams(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
