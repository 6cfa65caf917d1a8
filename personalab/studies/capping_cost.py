"""What the chosen capping settings cost, on items and prose that their choice did not see.

python -m personalab capping-cost     # some eight minutes on the cpu tier; Section 2 loads what it writes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.files import read_text, write
from personalab.lm.interventions import Cap, Intervention, Steer
from personalab.lm.models import load_model
from personalab.measure.capability import load_voices, multiple_choice, prose_nll
from personalab.records.items import load_items, load_prose
from personalab.records.prompts import load_jailbreaks
from personalab.setup.machine import compute_for_the_record
from personalab.studies.capping import CALIBRATION_TOKENS, caps, config_folder, load_capping_config
from personalab.studies.jailbreaks import answer_jailbreaks, answered
from personalab.studies.matched import matched_random_caps

EVALUATION_TOKENS = 20_480
VOICES_TOKENS = 2_048
CONTROL_SEED, CONTROL_TOKENS = 0, 28  # of the random directions; of the answers they are matched on; as in Section 2


def capping_conditions(config: Mapping[str, Any]) -> dict[str, list[Intervention]]:
    """What the evaluation compares: nothing, the chosen cap, the strongest affordable one, steering of like effect."""
    axis, gaps = config["vectors"]["axis"], float(config["steering"]["id"].rpartition("-")[2])
    push = axis["vector"] * config["steering"]["persona_gap"]
    return {
        "plain": [],
        "capped": list(caps(config, config["chosen"])),
        "strongest": list(caps(config, config["strongest"])),
        "steered": [Steer(axis["layer"], push, gaps)],
    }


def control_caps(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any]) -> list[Cap]:
    """Random caps that remove what the chosen ones do, matched on the calibration prompts and the plain answers."""
    calibration = load_jailbreaks("calibration")
    conversations = answered(calibration, answer_jailbreaks(model, tokenizer, calibration, max_tokens=CONTROL_TOKENS))
    generator = torch.Generator().manual_seed(CONTROL_SEED)
    return matched_random_caps(model, tokenizer, caps(config, config["chosen"]), conversations, generator)


def measure_cost(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """Every condition's held-out items (1 right, 0 wrong) and, for plain, capped and random, nats a token by window.

    Returns:
        `{"right": {condition: [...]}, "nll": {...}, "nll_voices": {...}}`: documentation, and prose in many voices;
        the conditions are those of `capping_conditions`, and "random", the matched control.
    """
    conditions = capping_conditions(config) | {"random": list(control_caps(model, tokenizer, config))}
    items, prose, voices = load_items(), load_prose(), load_voices()
    cost: dict[str, dict[str, list[float]]] = {"right": {}, "nll": {}, "nll_voices": {}}
    for name, interventions in conditions.items():
        cost["right"][name] = multiple_choice(model, tokenizer, items, interventions).astype(float).tolist()
    for name in ("plain", "capped", "random"):
        here = conditions[name]
        nll = prose_nll(model, tokenizer, prose, here, n_tokens=EVALUATION_TOKENS, skip=CALIBRATION_TOKENS)
        cost["nll"][name] = nll.round(5).tolist()
        cost["nll_voices"][name] = prose_nll(model, tokenizer, voices, here, n_tokens=VOICES_TOKENS).round(5).tolist()
    return cost


def capping_cost(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """`measure_cost` as arrays: read from `cost.json` if that is of these very settings, else measured (minutes)."""
    path, settings = config_folder() / "cost.json", _settings(config)
    saved = json.loads(read_text(path)) if path.exists() else {}
    cost = saved["cost"] if saved.get("settings") == settings else measure_cost(model, tokenizer, config)
    return {what: {name: np.array(values) for name, values in by.items()} for what, by in cost.items()}


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        "chosen": config["chosen"],
        "strongest": config["strongest"],
        "steering": config["steering"]["id"],
        "random": f"matched in what is removed, seed {CONTROL_SEED}",
    }


def make() -> None:
    """Measure and write `cost.json` beside the configuration."""
    compute_for_the_record()
    model, tokenizer = load_model("capping")
    config = load_capping_config()
    saved = {"settings": _settings(config), "cost": measure_cost(model, tokenizer, config)}
    write(config_folder() / "cost.json", json.dumps(saved) + "\n")
