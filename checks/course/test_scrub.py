"""What may stay in a saved output."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from personalab.course import scrub
from personalab.paths import ROOT


def cleaned(*saved: nbformat.NotebookNode, root: Path = ROOT) -> tuple[list[nbformat.NotebookNode], list[str]]:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=list(saved))])
    problems = scrub.clean_outputs(nb, root)
    nbformat.validate(nb)
    return nb.cells[0].outputs, problems


def stream(text: str, name: str = "stderr") -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


def test_progress_bars_and_widgets_go_and_other_stderr_stays() -> None:
    bar = "roles: 100%|██████████| 10/10 [00:01<00:00,  9.95it/s]"
    widget = nbformat.v4.new_output("display_data", data={scrub.WIDGET: {"model_id": "1"}, "text/plain": "HBox()"})
    saved, problems = cleaned(stream(f"careful\n{bar}\n"), stream(f"{bar}\n7it [1:02:03, 2.50s/it]\n"), widget)
    assert [output.text for output in saved] == ["careful\n"]
    assert problems == []
    saved, _ = cleaned(stream(f"{bar}warning: x\n[12:30:05 INFO] loaded, 3/s\n"), stream(bar, name="stdout"))
    assert [output.text for output in saved] == ["warning: x\n[12:30:05 INFO] loaded, 3/s\n", bar]


def test_paths_of_this_machine_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, root = tmp_path / "home", tmp_path / "home" / "lab"
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "big disk" / "cache"))
    monkeypatch.setattr(Path, "home", lambda: home)
    text = f"{root}/solutions \x1b[32m{root}\x1b[0m {home}/x {home}stead ('{tmp_path}/big disk/cache/w', 1)"
    table = {"text/html": f"<b>{root}</b>", "application/json": {"a": [f"{home}"]}, "image/png": f"{root}"}
    (stdout, shown, warning), _ = cleaned(
        stream(text, name="stdout"),
        nbformat.v4.new_output("display_data", data=table),
        stream("/tmp/ipykernel_417/12.py:3: UserWarning: x\n"),
        root=root,
    )
    assert stdout.text == f"./solutions \x1b[32m.\x1b[0m ~/x {home}stead ('~/.cache/personalab/w', 1)"
    assert shown.data == {"text/html": "<b>.</b>", "application/json": {"a": ["~"]}, "image/png": f"{root}"}
    assert warning.text == "<cell>:3: UserWarning: x\n"


def test_keys_are_replaced_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-toy-12345")
    monkeypatch.setenv("NONE_API_KEY", "none")
    (tmp_path / ".env").write_text('OTHER_API_KEY="sk-other-678"\n', "utf-8")
    saved, problems = cleaned(stream("sk-toy-12345 sk-other-678 none", name="stdout"), root=tmp_path)
    assert saved[0].text == "<TOY_API_KEY> <OTHER_API_KEY> none"
    assert [re.search(r"\w+_API_KEY", problem)[0] for problem in problems] == ["OTHER_API_KEY", "TOY_API_KEY"]


def test_tokens_and_passwords_are_keys_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_toy_12345")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:pass-word-9@host/v1")
    (tmp_path / ".env").write_text("OTHER_API_KEY=sk-other-678\n", "utf-16")
    saved, problems = cleaned(stream("hf_toy_12345 https://me:pass-word-9@host/v1 sk-other-678"), root=tmp_path)
    assert saved[0].text == "<HF_TOKEN> https://me:<OPENAI_BASE_URL>@host/v1 <OTHER_API_KEY>"
    assert len(problems) == 3
