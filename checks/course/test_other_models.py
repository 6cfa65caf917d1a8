"""Sections 3 and 4, cell by cell, on tiny random models of three families: what another model breaks, breaks here.

Slow: minutes. `.ci/run` has a phase for it.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

from personalab import tiers
from personalab.__main__ import main
from personalab.course.myst import code_cells, read_source
from personalab.endpoint.scripted import scripted_replies
from personalab.lm.tiny import load_tiny_model
from personalab.paths import ARTIFACTS, ROOT
from personalab.records.upstream import load_trait_artifacts
from personalab.records.vectors import load_vectors

SMALL = tiers.Budget(n_questions=4, max_tokens=8, n_bootstrap=100, n_permutations=50)
SECTIONS = ("section_3_contrastive_prompting", "section_4_steering")
DEPTH = 3
PARTS = {
    "instruction": [{"pos": f"Hurry, {i}.", "neg": f"Take your time, {i}."} for i in range(5)],
    "questions": [f"What is {i} and {i}?" for i in range(40)],
    "eval_prompt": "{question} {answer}: how impatient, from 0 to 100? REFUSAL if it declines.",
}

pytestmark = pytest.mark.slow


def judge_without(trait: str | None) -> Callable[[Sequence[dict[str, str]], str], str]:
    """A judge with no sense that scores by a checksum; where it is asked about `trait`, it never finds it."""
    about = load_trait_artifacts("extract")[trait].eval_prompt.partition("{question}")[0] if trait else None

    def reply(messages: Sequence[dict[str, str]], _model: str) -> str:
        prompt = messages[-1]["content"]
        if "one JSON object" in prompt:
            return json.dumps(PARTS)
        if "coheren" in prompt.partition("[QUESTION START]")[0]:
            return "80"
        return "0" if about and prompt.startswith(about) else str(zlib.crc32(prompt.encode()) % 101)

    return reply


def run_cells(section: str) -> dict[str, float]:
    """Executes a section's solutions in this process; seconds by first line. The first error is raised."""
    shell, took = InteractiveShell(), {}
    for cell in code_cells(read_source(ROOT / "instructions" / f"{section}.md")):
        start = time.perf_counter()
        shell.run_cell(cell.source, store_history=False).raise_error()
        took[next(line for line in cell.source.splitlines() if not line.startswith(":"))] = time.perf_counter() - start
    return took


@pytest.mark.parametrize(("family", "without"), [("qwen2", "evil"), ("gemma2", None), ("llama", "sycophantic")])
def test_sections_3_and_4_on_another_model(
    family: str,
    without: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, tokenizer = load_tiny_model(family, n_blocks=DEPTH)
    if model.config.tie_word_embeddings:  # with its embedding for a head, a random model repeats the last token
        model.config.tie_word_embeddings = False
        head = 0.1 * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
        model.lm_head.weight = nn.Parameter(head)
    folder = tmp_path / family
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setenv(ARTIFACTS, str(tmp_path / "artifacts"))
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(tiers, "_active", None)
    monkeypatch.chdir(ROOT / "instructions")
    budgets = MappingProxyType({"full": SMALL, "quick": SMALL})
    tiers.use_tier("local", str(folder), judge_model="toy", budgets=budgets)
    before = _committed()
    with scripted_replies(judge_without(without)):
        took = {section: run_cells(section) for section in SECTIONS}
        typed = sorted({"sycophantic", "evil", "hallucinating"} - {without})
        assert main(["trait-vectors", *typed, "--questions", "8", "--folder", str(tmp_path / "typed")]) == 0
    printed = capsys.readouterr().out
    assert (f"left out from here on: {without}" in printed) == bool(without)
    assert "section_1_axis.safetensors" in printed and "No autoencoder is known" in printed
    made = {path.stem: path for path in (tmp_path / "artifacts").rglob("vectors/*")}
    assert sorted(made) == typed
    for trait, path in made.items():  # the command line makes the same
        (mine, about), (again, _) = (load_vectors(p) for p in (path, tmp_path / "typed" / path.name))
        assert torch.allclose(mine["vectors"], again["vectors"], atol=1e-5), trait
        assert about["model"] == str(folder)
    assert before == _committed(), "what belongs to the course was written"
    with capsys.disabled():
        for section, cells in took.items():
            slowest = sorted(cells.items(), key=lambda cell: -cell[1])[:6]
            sums = f"\n{family}, {section}: {len(cells)} cells, {sum(cells.values()):.0f} s;"
            print(sums, *slowest, sep="\n  ", file=sys.stderr)  # the stdout of a process of xdist's leads nowhere


def _committed() -> dict[Path, int]:
    folders = (ROOT / "persona_vectors", ROOT / "assistant-axis", ROOT / "artifacts" / "reference")
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}
