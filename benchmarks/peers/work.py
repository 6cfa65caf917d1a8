"""What every side is given: one model, its texts, one vector. Nothing random, so that any machine has the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import utils
from personalab.lm import chat
from personalab.records.items import load_prose
from personalab.setup.weights import LANGUAGE_MODEL

BLOCK = 19  # of 30: two thirds of the way up
N_TEXTS = 8
N_PROMPTS, N_TOKENS = 4, 32
SWEEP_PROMPTS, SWEEP_TOKENS = 2, 12
COEFFICIENTS = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]


def model_folder(scratch: Path) -> Path:
    """The embedded model, described so that transformers 4 reads the same from it as 5."""
    source, folder = LANGUAGE_MODEL.ensure(), scratch / "SmolLM2-135M-Instruct"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    tokenizer = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def work(folder: Path) -> dict[str, Any]:
    """Texts that share nothing but the template, texts that share system prompts, and prompts to answer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [p for role in utils.load_roles().values() for p in role.prompts]
    questions, prose = utils.load_questions(), load_prose()

    def text(i: int, system: str) -> str:
        answer = " ".join(prose[i].split()[: 25 + 5 * (i % 8)])  # of unequal lengths, as answers are
        return chat.render(chat.as_messages(system, questions[i], answer), tokenizer, add_generation_prompt=False)

    unlike = [text(i, f"{i + 1}. {prompts[i]}") for i in range(N_TEXTS)]
    shared = [text(i, prompts[0]) for i in range(N_TEXTS)]
    asked = [chat.as_messages(f"{i + 1}. {prompts[i]}", questions[i]) for i in range(N_PROMPTS)]
    return {
        "unlike": [_to_last_word(t) for t in unlike],
        "shared": [_to_last_word(t) for t in shared],
        "messages": asked,
        "prompts": [chat.render(m, tokenizer, add_generation_prompt=True) for m in asked],
        "lengths": {
            name: sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts) / len(texts)
            for name, texts in (("unlike", unlike), ("shared", shared))
        },
    }


def _to_last_word(text: str) -> str:
    """Without the end-of-turn marker: states are read at the answer's last token."""
    return text.rpartition("<|im_end|>")[0]
