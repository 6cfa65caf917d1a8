"""Data files: ours are complete and disjoint from upstream's text, upstream's all load, errors name file and field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from personalab.paths import ROOT
from personalab.records import schema, upstream
from personalab.records.schema import DataError

UPSTREAM = ROOT.parent / "shared" / "upstream" / "assistant-axis"
needs_upstream = pytest.mark.skipif(not UPSTREAM.exists(), reason="no ../shared/upstream beside this checkout")


def test_our_roles_are_complete():
    roles, groups = upstream.load_roles(), upstream.load_role_groups()
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(set(roles) - {"default"})
    assert len(grouped) >= 24
    for role in roles.values():
        assert len(set(role.prompts)) == upstream.N_PROMPTS
    for name in grouped:
        assert (
            all(roles[name].prompts)
            and "{question}" in roles[name].eval_prompt
            and "{answer}" in roles[name].eval_prompt
        )
    assert "" in roles["default"].prompts
    assert set(upstream.load_descriptions(upstream.ASSISTANT_AXIS / "data" / "roles" / "role_list.json")) == set(
        grouped
    )


def test_our_questions():
    questions = upstream.load_questions()
    assert len(questions) >= 100
    assert len(set(questions)) == len(questions)


@needs_upstream
def test_every_upstream_file_loads():
    files = sorted(UPSTREAM.rglob("*.json*"))
    read = (
        len(upstream.load_roles(UPSTREAM))
        + len(upstream.load_traits(UPSTREAM))
        + len(upstream.load_transcripts(UPSTREAM))
    )
    assert len(upstream.load_questions(UPSTREAM)) == 240
    lists = [UPSTREAM / "data" / "roles" / "role_list.json", UPSTREAM / "data" / "traits" / "trait_list.json"]
    assert all(len(upstream.load_descriptions(path)) > 200 for path in lists)
    assert read + len(lists) + 1 == len(files)
    for transcript in upstream.load_transcripts(UPSTREAM).values():
        assert transcript.conversation
        assert not any(
            "INTERNAL_STATE" in turn["content"] for turn in transcript.conversation if turn["role"] == "user"
        )


@needs_upstream
def test_nothing_of_upstreams_prose_is_copied():
    ours, theirs = upstream.load_roles(), upstream.load_roles(UPSTREAM)
    prompts = {p for role in theirs.values() for p in role.prompts if len(p.split()) > 6}
    assert not prompts & {p for role in ours.values() for p in role.prompts}
    assert not set(upstream.load_questions()) & set(upstream.load_questions(UPSTREAM))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<INTERNAL_STATE>sad</INTERNAL_STATE>Hello", "Hello"),
        ("a<INTERNAL_STATE>one\ntwo</INTERNAL_STATE>b<INTERNAL_STATE>x</INTERNAL_STATE>c", "abc"),
        ("Hello<INTERNAL_STATE>never closed\nmore", "Hello"),
        ("stray</INTERNAL_STATE> end", "stray end"),
        ("nothing to strip", "nothing to strip"),
    ],
)
def test_internal_state_is_stripped(text, clean):
    assert upstream.strip_internal_state(text) == clean


ROLE = {"instruction": [{"pos": str(i)} for i in range(5)]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{not json", "not valid JSON"),
        (json.dumps([]), "expected an object"),
        (json.dumps({}), "'instruction' is missing"),
        (json.dumps({"instruction": ROLE["instruction"][:4]}), "must hold 5 prompts, found 4"),
        (
            json.dumps({"instruction": [*ROLE["instruction"][:4], {"neg": "x"}]}),
            r"field 'instruction\[4\]\.pos' is missing",
        ),
        (json.dumps(ROLE | {"questions": "one"}), "'questions' must be a list, not str"),
        (json.dumps(ROLE | {"eval_prompt": 3}), "'eval_prompt' must be text"),
    ],
)
def test_a_bad_role_file_is_named(tmp_path, content, words):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words) as error:
        upstream.load_role(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "key", "line"),
    [
        ('{\n "instruction": [],\n "questions": ["\\"questions\\": {"],\n "questions": []\n}', "questions", 4),
        ('{"a": {"b": 1},\n "c": [{"b": 1}, {"b": 1,\n "\\u0062": 2}]}', "b", 3),
    ],
)
def test_a_key_that_comes_twice_is_named(tmp_path, content, key, line):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=rf"x\.json, line {line}: key '{key}' comes twice in one object"):
        schema.read_as(tmp_path / "x.json", dict[str, Any])
    (tmp_path / "x.jsonl").write_text("{}\n" + content.replace("\n", "") + "\n")
    with pytest.raises(DataError, match=rf"x\.jsonl, line 2: key '{key}' comes twice in one object"):
        schema.read_jsonl(tmp_path / "x.jsonl")


def test_unknown_fields_are_kept(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROLE | {"source": "us"}))
    assert upstream.load_role(path).extra == {"source": "us"}


def test_bad_questions_name_the_line(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "extraction_questions.jsonl").write_text('{"question": "Why?", "id": 0}\n{"question": "How?", "id": 0}\n')
    with pytest.raises(DataError, match="line 2"):
        upstream.load_questions(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="is the root right"):
        upstream.load_roles(tmp_path)
