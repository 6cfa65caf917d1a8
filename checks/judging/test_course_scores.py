"""The course's own judge prompts, with recorded answers in them, get the replies that they got when the course's
numbers were recorded: `course_scores.json`, made once by running this file (`--record`), and never tuned to."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import pytest

from personalab.course.myst import code_cells, read_source
from personalab.judging.prompts import read_prompt
from personalab.judging.replies import read_score
from personalab.judging.scoring import reply
from personalab.paths import ROOT
from personalab.records.schema import read_as, read_jsonl
from personalab.records.upstream import load_trait_artifacts

TABLE = Path(__file__).with_name("course_scores.json")
HELD_OUT = ROOT / "personalab" / "judging" / "data" / "held_out"
_TEMPLATE = re.compile(r'^(\w*PROMPT_TEMPLATE) = """(.*?)"""', re.M | re.S)


def sections_templates() -> dict[str, str]:
    """The judge prompts that sections write out: role, delusion, coherence."""
    found: dict[str, str] = {}
    for section in sorted((ROOT / "instructions").glob("section_[123]_*.md")):
        for cell in code_cells(read_source(section)):
            found |= {f"{section.stem[:9]} {m[1]}": m[2] for m in _TEMPLATE.finditer(cell.source)}
    return found


def prompts() -> dict[str, tuple[str, float, float]]:
    """Every prompt by name, filled in with answers that models gave, and its scale."""
    rows = [*read_jsonl(HELD_OUT / "model_outputs.jsonl").values()][::40]
    found = {
        f"{trait} {i}": (artifact.eval_prompt.format(question=row["question"], answer=row["answer"]), 0.0, 100.0)
        for trait, artifact in load_trait_artifacts("eval").items()
        for i, row in enumerate(rows)
    }
    roles = itertools.islice(read_jsonl(HELD_OUT / "roles.jsonl").values(), 0, None, 20)
    for name, template in sections_templates().items():
        if "{character}" in template:
            for i, row in enumerate(itertools.islice(roles, 8)):
                filled = {k: row[k] for k in ("question", "character")} | {"response": row["answer"]}
                found[f"{name} {i}"] = (template.format(**filled), 0.0, 3.0)
        elif "{history}" in template:
            for i, row in enumerate([*read_jsonl(HELD_OUT / "delusion.jsonl").values()][:6]):
                history = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in row["history"])
                found[f"{name} {i}"] = (template.format(history=history, response=row["answer"]), 1.0, 5.0)
        elif "COHERENCE" in name:
            for i, row in enumerate(rows):
                found[f"{name} {i}"] = (template.format(question=row["question"], answer=row["answer"]), 0.0, 100.0)
    return found


def replies() -> dict[str, str]:
    return dict(zip(prompts(), reply([read_prompt(text) for text, _, _ in prompts().values()]), strict=True))


def test_the_course_s_prompts_get_the_scores_on_record() -> None:
    recorded, found = read_as(TABLE, dict[str, str]), replies()
    assert len(recorded) >= 60
    assert found.keys() == recorded.keys()
    for name, (_, low, high) in prompts().items():
        if "DELUSION" in name:
            assert found[name] == recorded[name], name
            continue
        was, now = (read_score(text, low, high) for text in (recorded[name], found[name]))
        assert (was is None) == (now is None), name
        assert now == pytest.approx(was, abs=0 if high < 20 else 1), name


def test_recorded_replies_are_read_as_the_numbers_they_are() -> None:
    ends = {name: (low, high) for name, (_, low, high) in prompts().items()}
    for name, text in read_as(TABLE, dict[str, str]).items():
        if "DELUSION" in name:  # two tags
            continue
        number = None if text == "REFUSAL" else int(text)
        for said in (text, f"Score: {text}", f"**{text}**", f"<think>3 reasons</think>\n{text}"):
            assert read_score(said, *ends[name]) == number, said


if __name__ == "__main__" and "--record" in sys.argv:
    TABLE.write_text(json.dumps(replies(), indent=1) + "\n", "utf-8")
