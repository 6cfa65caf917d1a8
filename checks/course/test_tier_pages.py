"""The tiers' pages: what is generated is up to date, prices are read with their source, a run says what it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from personalab import tiers
from personalab.__main__ import main
from personalab.course import tier_pages
from personalab.paths import ROOT
from personalab.setup.weights import LANGUAGE_MODEL
from personalab.setup.work import SECTIONS, calls, read, work_of, written

A100 = tiers.TIERS["a100"]
PRICE = '["openai/gpt-4.1-mini"]\ninput = 2\noutput = 10\ndate = 2026-01-02\nsource = "a page"\n'


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs" / "tiers", tmp_path / "docs" / "tiers")
    shutil.copy(ROOT / "docs" / "tiers.md", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    return tmp_path


def test_the_pages_are_up_to_date() -> None:
    found = [page.name for page in tier_pages.build(check=True)]
    assert not found, "run python3 -m personalab tiers --write"


def test_what_is_generated_is_replaced_and_nothing_else(pages: Path) -> None:
    page = pages / "docs" / "tiers" / "a100.md"
    before = page.read_text()
    page.write_text(before.replace("| 4b |", "| 4x |"))
    assert tier_pages.build(pages, check=True) == [page]
    assert tier_pages.build(pages) == [page]
    assert page.read_text() == before and tier_pages.build(pages) == []
    page.write_text(before.replace("work: generated", "wrok: generated").replace("end of work", "end of wrok"))
    with pytest.raises(ValueError, match=r"docs/tiers/a100.md asks for 'wrok'"):
        tier_pages.build(pages)


def test_a_price_makes_an_estimate(pages: Path) -> None:
    (pages / tier_pages.PRICES).write_text(PRICE)
    steps = work_of("2", A100, A100.budget)
    row = next(row for row in tier_pages.table(A100, A100.budget, pages) if row.startswith("| 2 |"))
    dollars = (2 * read(steps, hosted=True) + 10 * written(steps, hosted=True)) / 1e6
    assert row.endswith(f"| {dollars:.2f} |") and f"| {calls(steps)} |" in row
    assert tier_pages.table(A100, A100.budget, pages)[2].endswith("| no price |")  # Gemma writes Section 1's answers


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (PRICE.replace("input = 2\n", ""), "'openai/gpt-4.1-mini': input is None"),
        (PRICE.replace("10", "-1"), "output is -1"),
        (PRICE.replace("2026-01-02", '"today"'), "date is 'today'"),
        (PRICE.replace("a page", ""), "source is ''"),
        ("price = 3\n", "'price': input is None"),
        ("[", "prices.toml is not TOML"),
    ],
)
def test_a_price_without_date_or_source_is_refused(pages: Path, text: str, error: str) -> None:
    (pages / tier_pages.PRICES).write_text(text)
    with pytest.raises(ValueError, match=r"docs/tiers/prices\.toml") as refused:
        tier_pages.prices(pages)
    assert error in str(refused.value)


def test_a_runs_counts_are_noted(pages: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "quick"
    run.mkdir(parents=True)
    tokens = {"SmolLM2-135M-Instruct": {"passes": 2, "read": 10_000, "decoded": 4_000}}
    machines = {"section_1": {"tokens": tokens}, "section_2": {"tokens": {}}, "finetuning": {"tokens": tokens}}
    (run / "machine.json").write_text(json.dumps(machines))
    assert tier_pages.take_counts(run, pages) == ["1/quick", "4b/quick"]
    rows = tier_pages.counted(pages)
    formula = read(work_of("1", tiers.TIERS["cpu"], tiers.QUICK), hosted=False)
    assert f"| 1 | quick | read | 10,000 | {formula:,} | {10_000 / formula:.2f} |" in rows
    with pytest.raises(ValueError, match="holds no tokens"):
        tier_pages.take_counts(tmp_path, pages)


def test_no_price_is_invented() -> None:
    for model, price in tier_pages.prices().items():
        assert price.source.startswith("https://") and price.date.year >= 2025, model


def test_a_larger_tiers_run_says_what_it_takes() -> None:
    lines = tier_pages.announce(A100, "full", "3")
    assert "a100" in lines[0] and len(lines) == 3 and lines[2].startswith("| 3 |")
    assert len(tier_pages.announce(A100, "quick", None)) == 2 + len(SECTIONS)
    assert tier_pages.announce(tiers.TIERS["cpu"], "full", None) == []
    assert tier_pages.announce(tiers.use_tier("a100", trait_model="a/b"), "full", None) == []


def test_the_command_prints_every_section(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    assert main(["tiers", "--budget", "quick"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {section} |") >= 2 for section in SECTIONS)


def test_more_questions_are_more_work() -> None:
    for section in SECTIONS:
        less, more = (work_of(section, A100, A100.budgets[name]) for name in ("dry", "full"))
        assert calls(less) <= calls(more) and read(less, hosted=False) < read(more, hosted=False)
    with pytest.raises(ValueError, match="section '9' is not counted"):
        work_of("9", A100, A100.budget)


@pytest.mark.slow
def test_the_recorded_runs_answers_are_those_of_the_formula() -> None:
    """Their number exactly, their tokens nearly: docs/tiers.md says how nearly."""
    tokenizer = Tokenizer.from_file(str(LANGUAGE_MODEL.ensure() / "tokenizer.json"))
    found = {name: load_json(f"section_{name}.json") for name in ("1_responses", "3_answers", "4_sweep")}
    contrasting = [row for rows in found["3_answers"].values() for row in rows["contrastive"]]
    for section, what, rows, shown in (
        ("1", "answers of 44 personas", found["1_responses"], 0),
        ("3", "contrasting answers", contrasting, 4),
        ("4", "sweep of coefficients", found["4_sweep"], 0),
    ):
        step = next(s for s in work_of(section, tiers.TIERS["cpu"], tiers.FULL) if s.what == what)
        tokens = sum(len(tokenizer.encode(row["response"], add_special_tokens=False).ids) for row in rows)
        assert len(rows) == step.n - shown
        assert 0.85 < tokens / step.tokens_written <= 1


def load_json(name: str) -> Any:
    return json.loads((ROOT / "artifacts" / "reference" / "cpu" / name).read_text(encoding="utf-8"))
