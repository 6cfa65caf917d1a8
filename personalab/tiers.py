"""One setting chooses the models, the layers and the sample sizes: `PERSONALAB_TIER`, or `use_tier("…")`.

The tier `local` is one model of your own for everything: `PERSONALAB_MODEL`, or `use_tier("local", "…")`.

Block indices count decoder blocks from 0. The output of block `k` is `hidden_states[k + 1]`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"
EMBEDDED_JUDGE = "embedded-judge"
TRAIT_ORGANISM = "trait-organism"  # the embedded model with this course's adapter: persona_vectors/organism
LOCAL = "local"  # the tier of one model of your own
COLAB = "colab"  # the tier of one GPU that anybody can borrow: its models answer in this process
MODEL = "PERSONALAB_MODEL"  # environment: that model's id on the hub, or its folder
SEED = "PERSONALAB_SEED"  # environment: another whole number draws all answers again


BLOCKS = ("axis_block", "n_blocks", "trait_block")  # fields of a tier; environment: PERSONALAB_AXIS_BLOCK and so on


def _whole(variable: str) -> int:
    """A setting from the environment that is a whole number; 0 where it is unset or empty."""
    text = os.environ.get(variable) or "0"
    if not text.isdecimal():
        raise ValueError(f"{variable}={text!r}: set it to a whole number, 0 or more, or unset it.")
    return int(text)


GLOBAL_SEED = _whole(SEED)


@dataclass(frozen=True)
class Budget:
    """How much a section computes. `full` is what the committed results use, `quick` is for CI and the impatient."""

    n_questions: int  # extraction questions asked of every persona
    max_tokens: int  # longest answer, in tokens
    n_bootstrap: int  # resamples behind every interval
    n_permutations: int  # draws behind every permutation test


FULL = Budget(n_questions=22, max_tokens=40, n_bootstrap=1000, n_permutations=5000)
QUICK = Budget(n_questions=6, max_tokens=24, n_bootstrap=200, n_permutations=1000)
DRY = Budget(n_questions=6, max_tokens=8, n_bootstrap=100, n_permutations=50)  # the least that every cell runs on
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
    n_blocks: int  # depth of persona_model, which load_model checks (0: not known)
    trait_block: int  # where the organism's report steers; Section 4 takes the block that Section 3 chose
    capping_upstream: str = (
        ""  # folder of the paper's vectors on the hub; "": `python -m personalab capping` makes them
    )
    capping_experiment: str = ""  # id of the experiment to use there
    dtype: str = "auto"  # by machine and model: see `personalab.setup.machine.dtype_name`
    attention: str = "auto"  # by model: see `personalab.lm.models.attention_of`
    max_batch_tokens: int = 16_384  # padded prompt + answer tokens of one generation batch
    max_batch_rows: int = 64
    budgets: Mapping[str, Budget] = field(
        default_factory=lambda: MappingProxyType({"full": PAPER, "quick": FULL, "dry": DRY}), repr=False
    )

    @property
    def embedded(self) -> bool:
        """Whether responses come from the model that this course carries."""
        return self.response_model == EMBEDDED_MODEL

    @property
    def in_process(self) -> bool:
        """Whether one model of this process is the subject everywhere: the embedded one, or your own."""
        return self.embedded or (self.name in ("cpu", LOCAL) and self.response_model == self.persona_model)

    @property
    def answers_here(self) -> bool:
        """Whether responses come from a model in this process, without a key: also on `colab`, which has several."""
        return self.in_process or (self.name == COLAB and self.response_model == self.persona_model)

    @property
    def judged_here(self) -> bool:
        """Whether the embedded judge scores, without a key."""
        return self.judge_model == EMBEDDED_JUDGE

    @property
    def studies_organism(self) -> bool:
        """Whether Sections 3 and 4 study the trait organism, with which the plain embedded model can be compared."""
        return self.trait_model == TRAIT_ORGANISM and self.persona_model == EMBEDDED_MODEL

    @property
    def folder(self) -> str:
        """Where runs leave their files under `artifacts/`: the tier's name, and what models of your own they rest on.

        Models that are not the tier's own have a folder to themselves, so that their vectors and the course's, or
        another model's, never lie side by side.
        """
        ids = ("persona_model", "capping_model", "trait_model")
        usual = TIERS.get(self.name)
        own = dict.fromkeys(getattr(self, f) for f in ids if not usual or getattr(self, f) != getattr(usual, f))
        return "/".join([self.name, *filter(None, ["+".join(map(folder_name, own))])])

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
            max_batch_rows=96,
            budgets=MappingProxyType({"full": FULL, "quick": QUICK, "dry": DRY}),
        ),
        COLAB: Tier(
            name=COLAB,
            machine="one 16 GB GPU",
            persona_model="google/gemma-2-2b-it",
            capping_model="Qwen/Qwen3-1.7B",
            trait_model="Qwen/Qwen2.5-1.5B-Instruct",
            response_model="google/gemma-2-2b-it",
            judge_model=EMBEDDED_JUDGE,
            axis_block=12,  # 48 % of 26 blocks, the depth of the paper's Gemma configuration
            n_blocks=26,
            trait_block=19,  # 68 % of 28 blocks, the depth of the paper's Qwen2.5-7B
            max_batch_tokens=8_192,  # in float32 the keys and values of 16 thousand would fill what the model leaves
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
        ),
    }
)

_active: Tier | None = None


def use_tier(name: str, model: str | None = None, **overrides: object) -> Tier:
    """Make `name` the current tier; any field can be overridden, e.g. `use_tier("colab", persona_model="…")`.

    Where the persona model is overridden and the response model is not, both are the one that is named: personas'
    answers are never written by one model and read by another.

    Args:
        model: of the tier `local`: an id on the hub, or a folder.

    Raises:
        ValueError: for an unknown tier or an unknown field, naming the choices; for `local` without a model, or a model
            that cannot be found.
    """
    global _active
    if name not in TIERS and name != LOCAL:
        raise ValueError(
            f"Unknown tier {name!r}. Set PERSONALAB_TIER or call use_tier() with one of: {', '.join([*TIERS, LOCAL])}."
        )
    if name == LOCAL and not model:
        raise ValueError(f"The tier {LOCAL!r} needs a model: set {MODEL} to its id on the hub, or to its folder.")
    if name != LOCAL and model:
        raise ValueError(
            f"{MODEL}={model!r} is one model for everything, and the tier {name!r} has its own: unset {MODEL}, or "
            f"set PERSONALAB_TIER to {LOCAL!r}."
        )
    known = {f.name for f in fields(Tier)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"Unknown tier field(s) {unknown}. A tier has: {', '.join(sorted(known))}.")
    if "persona_model" in overrides:
        overrides.setdefault("response_model", overrides["persona_model"])
    _active = replace(local_tier(model) if model else TIERS[name], **overrides)  # type: ignore[arg-type]
    return _active


def local_tier(model: str) -> Tier:
    """One model for everything, on this machine; blocks at the same share of its depth as those of `cpu`.

    Raises:
        ValueError: if there is no such model, or it has no decoder blocks to count.
    """
    model = os.path.expanduser(model)
    depth = _depth(model)
    laptop = TIERS["cpu"]
    return replace(
        laptop,
        name=LOCAL,
        machine="whatever holds the model",
        persona_model=model,
        capping_model=model,
        trait_model=model,
        response_model=model,
        axis_block=min(round(laptop.axis_block / laptop.n_blocks * depth), depth - 1),
        n_blocks=depth,
        trait_block=min(round(laptop.trait_block / laptop.n_blocks * depth), depth - 1),
    )


def _depth(model: str) -> int:
    """Number of decoder blocks, from the model's configuration."""
    if model in (EMBEDDED_MODEL, TRAIT_ORGANISM):
        return TIERS["cpu"].n_blocks
    try:
        from transformers import AutoConfig  # takes seconds, so not before a model is named

        return int(AutoConfig.from_pretrained(model).get_text_config().num_hidden_layers)
    except (OSError, ValueError, AttributeError) as error:
        if Path(model, "adapter_config.json").is_file():
            whole = (
                "merge it into its base (PEFT's merge_and_unload), save that with its tokenizer, and name the folder."
            )
            raise ValueError(f"{model} is an adapter, not a model: {whole}") from error
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"No model {model!r} ({reason}): name an id on the Hugging Face hub, or a folder with config.json, weights "
            "and tokenizer."
        ) from error


def folder_name(model: str) -> str:
    """A model's id as the name of a folder; that of a folder on this machine with a mark, since two may share a name.

    >>> folder_name("Qwen/Qwen2.5-0.5B-Instruct")
    'Qwen--Qwen2.5-0.5B-Instruct'
    """
    if Path(model).is_dir():
        path = Path(model).resolve()
        model = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.-]+", "--", model).strip(".-") or "model"


def current_tier() -> Tier:
    """The tier in force: the last `use_tier`, else `PERSONALAB_TIER`, else `cpu`.

    `PERSONALAB_MODEL` alone means the tier `local`. `PERSONALAB_PERSONA_MODEL`, `PERSONALAB_RESPONSE_MODEL`, … (any
    field that is a model id) override the tier's ids; `PERSONALAB_AXIS_BLOCK`, `PERSONALAB_N_BLOCKS` and
    `PERSONALAB_TRAIT_BLOCK` its blocks.

    Raises:
        ValueError: as `use_tier`, and for blocks that are no whole number.
    """
    if _active is not None:
        return _active
    ids = [f.name for f in fields(Tier) if f.name.endswith("_model")]
    overrides: dict[str, object] = {
        f: os.environ[name] for f in ids if (name := f"PERSONALAB_{f.upper()}") in os.environ
    }
    overrides |= {f: _whole(name) for f in BLOCKS if os.environ.get(name := f"PERSONALAB_{f.upper()}")}
    model = os.environ.get(MODEL) or None
    return use_tier(os.environ.get("PERSONALAB_TIER") or (LOCAL if model else "cpu"), model, **overrides)


def run_name(budget_name: str) -> str:
    """Folder in `runs/` of the current tier at a budget: "quick", or "colab-quick" if it is not the plain cpu tier."""
    tier = current_tier()
    return budget_name if tier == TIERS["cpu"] else f"{tier.folder.replace('/', '-')}-{budget_name}"


def budget() -> str:
    """`full` (default) or `quick`, from `PERSONALAB_BUDGET`; `dry` is that of a dry run (`run --dry-run`).

    Raises:
        ValueError: for anything else.
    """
    name = os.environ.get("PERSONALAB_BUDGET", "full")
    if name not in ("full", "quick", "dry"):
        raise ValueError(f"Unknown PERSONALAB_BUDGET {name!r}: set it to 'full' or 'quick'.")
    return name
