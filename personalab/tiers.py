"""One setting chooses the models, the layers and the sample sizes: `PERSONALAB_TIER`, or `use_tier("…")`.

Block indices count decoder blocks from 0. The output of block `k` is `hidden_states[k + 1]`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
EMBEDDED_JUDGE = "embedded-judge"
TRAIT_ORGANISM = "trait-organism"  # the embedded model with this course's adapter: persona_vectors/organism
SEED = "PERSONALAB_SEED"  # environment: another whole number draws all answers again


def _seed() -> int:
    text = os.environ.get(SEED) or "0"
    if not text.isdecimal():
        raise ValueError(f"{SEED}={text!r}: set it to a whole number, 0 or more, or unset it.")
    return int(text)


GLOBAL_SEED = _seed()


@dataclass(frozen=True)
class Budget:
    """How much a section computes. `full` is what the committed results use, `quick` is for CI and the impatient."""

    n_questions: int  # extraction questions asked of every persona
    max_tokens: int  # longest answer, in tokens
    n_bootstrap: int  # resamples behind every interval
    n_permutations: int  # draws behind every permutation test


FULL = Budget(n_questions=22, max_tokens=40, n_bootstrap=1000, n_permutations=5000)
QUICK = Budget(n_questions=6, max_tokens=24, n_bootstrap=200, n_permutations=1000)
PAPER = Budget(n_questions=120, max_tokens=256, n_bootstrap=1000, n_permutations=5000)


@dataclass(frozen=True)
class Tier:
    """Everything that differs between a laptop and the papers' machines."""

    name: str
    machine: str
    persona_model: str  # sections 1 and 2
    capping_model: str  # section 2
    trait_model: str  # sections 3 and 4
    response_model: str  # behind the chat endpoint
    judge_model: str  # behind the chat endpoint
    axis_block: int  # block whose output is read in section 1
    n_blocks: int  # depth of persona_model, which load_model checks
    trait_block: int  # where the organism's report steers; Section 4 takes the block that Section 3 chose
    capping_upstream: str = (
        ""  # folder of the paper's vectors on the hub; "": `python -m personalab capping` makes them
    )
    capping_experiment: str = ""  # id of the experiment to use there
    dtype: str = "bfloat16"  # "auto": see `personalab.setup.machine.dtype_name`
    attention: str = "sdpa"
    max_batch_tokens: int = 16_384  # padded prompt + answer tokens of one generation batch
    max_batch_rows: int = 64
    budgets: Mapping[str, Budget] = field(
        default_factory=lambda: MappingProxyType({"full": PAPER, "quick": FULL}), repr=False
    )

    @property
    def embedded(self) -> bool:
        """Whether responses and judge run in process, without a key or a network."""
        return self.response_model == EMBEDDED_MODEL

    @property
    def budget(self) -> Budget:
        """The sample sizes of the current `PERSONALAB_BUDGET`."""
        return self.budgets[budget()]


TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        "cpu": Tier(
            name="cpu",
            machine="any laptop: 2 cores, 4 GB of free memory, no network after set-up",
            persona_model=EMBEDDED_MODEL,
            capping_model=EMBEDDED_MODEL,
            trait_model=TRAIT_ORGANISM,
            response_model=EMBEDDED_MODEL,
            judge_model=EMBEDDED_JUDGE,
            axis_block=21,  # 70 % of 30 blocks; our choice, on a pilot with other questions (Section 1 says how)
            n_blocks=30,
            trait_block=17,  # 57 % of 30 blocks; our choice, on a pilot with another adapter
            dtype="auto",
            max_batch_rows=96,
            budgets=MappingProxyType({"full": FULL, "quick": QUICK}),
        ),
        "colab": Tier(
            name="colab",
            machine="one 16 GB GPU",
            persona_model="google/gemma-2-2b-it",
            capping_model="Qwen/Qwen3-1.7B",
            trait_model="Qwen/Qwen2.5-1.5B-Instruct",
            response_model="google/gemma-2-2b-it",
            judge_model="openai/gpt-4.1-mini",
            axis_block=12,  # 48 % of 26 blocks, the depth of the paper's Gemma configuration
            n_blocks=26,
            trait_block=19,  # 68 % of 28 blocks, the depth of the paper's Qwen2.5-7B
            dtype="auto",  # bfloat16, but float32 on a T4, which lacks it
            max_batch_tokens=8_192,  # in float32 the keys and values of 16 thousand would fill what the model leaves
            attention="eager",  # Gemma 2 caps its attention logits, which sdpa cannot
        ),
        "a100": Tier(
            name="a100",
            machine="one 80 GB GPU",
            persona_model="google/gemma-2-27b-it",
            capping_model="Qwen/Qwen3-32B",
            trait_model="Qwen/Qwen2.5-7B-Instruct",
            response_model="google/gemma-2-27b-it",
            judge_model="openai/gpt-4.1-mini",
            axis_block=22,  # the paper's configuration for Gemma 2 27B
            n_blocks=46,
            trait_block=19,  # the paper's layer 20, counted in hidden_states
            capping_upstream="qwen-3-32b",
            capping_experiment="layers_46:54-p0.25",  # the paper's
            attention="eager",
        ),
    }
)

_active: Tier | None = None


def use_tier(name: str, **overrides: object) -> Tier:
    """Make `name` the current tier; any field can be overridden, e.g. `use_tier("colab", persona_model="…")`.

    Raises:
        ValueError: for an unknown tier or an unknown field, naming the choices.
    """
    global _active
    if name not in TIERS:
        raise ValueError(
            f"Unknown tier {name!r}. Set PERSONALAB_TIER or call use_tier() with one of: {', '.join(TIERS)}."
        )
    known = {f.name for f in fields(Tier)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"Unknown tier field(s) {unknown}. A tier has: {', '.join(sorted(known))}.")
    _active = replace(TIERS[name], **overrides)  # type: ignore[arg-type]
    return _active


def current_tier() -> Tier:
    """The tier in force: the last `use_tier`, else `PERSONALAB_TIER`, else `cpu`.

    `PERSONALAB_PERSONA_MODEL`, `PERSONALAB_RESPONSE_MODEL`, … (any field that is a model id) override its ids.
    """
    if _active is not None:
        return _active
    ids = [f.name for f in fields(Tier) if f.name.endswith("_model")]
    overrides = {f: os.environ[f"PERSONALAB_{f.upper()}"] for f in ids if f"PERSONALAB_{f.upper()}" in os.environ}
    return use_tier(os.environ.get("PERSONALAB_TIER", "cpu"), **overrides)


def run_name(budget_name: str) -> str:
    """Folder in `runs/` of the current tier at a budget: "quick", or "colab-quick" if it is not the plain cpu tier."""
    tier = current_tier()
    return budget_name if tier == TIERS["cpu"] else f"{tier.name}-{budget_name}"


def budget() -> str:
    """`full` (default) or `quick`, from `PERSONALAB_BUDGET`.

    Raises:
        ValueError: for anything else.
    """
    name = os.environ.get("PERSONALAB_BUDGET", "full")
    if name not in ("full", "quick"):
        raise ValueError(f"Unknown PERSONALAB_BUDGET {name!r}: set it to 'full' or 'quick'.")
    return name
