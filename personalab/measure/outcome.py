"""What a study of one model found: every number with n, its interval, and what it must be compared with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from personalab.measure.intervals import Interval, bootstrap_interval
from personalab.records.upstream import Trait
from personalab.tiers import GLOBAL_SEED, current_tier

Kind = Literal["result", "baseline", "control", "difference", "cost"]
KINDS: Mapping[Kind, str] = {
    "result": "what was found",
    "baseline": "the dullest explanation: it gets along without the vector",
    "control": "the same done with something that should not work",
    "difference": "what was found minus that",
    "cost": "what it costs",
}


class Row(NamedTuple):
    """One number: its 95 % interval is None where it has none, and `n` counts what `unit` says."""

    kind: Kind
    name: str
    value: float
    ci: Interval | None
    n: int
    unit: str

    @property
    def text(self) -> str:
        """`0.87 [0.80, 0.91], n = 24 answers`."""
        between = f" [{self.ci.low:.2f}, {self.ci.high:.2f}]" if self.ci else ""
        return f"{self.value:.2f}{between}, n = {self.n} {self.unit}"

    @property
    def verdict(self) -> str:
        """Of a difference, in words, whether its interval leaves room for none; "" for anything else."""
        if self.kind != "difference" or self.ci is None:
            return ""
        if self.ci.low <= 0 <= self.ci.high:
            return "the interval holds 0: this run tells no difference"
        return f"the interval lies {'above' if self.ci.low > 0 else 'below'} 0"


class Example(NamedTuple):
    """Something that a model said, and what it was asked."""

    label: str
    asked: str
    said: str

    @classmethod
    def of(cls, label: str, prompt: Sequence[Mapping[str, str]], said: str) -> Example:
        """With the messages that were asked, each after its role."""
        return cls(label, "\n".join(f"{m['role']}: {m['content']}" for m in prompt), said)


@dataclass(frozen=True)
class Outcome:
    """What one study found. `print` shows its rows.

    Attributes:
        name: of its files: "axis", "steer-evil".
        about: what was done, in a sentence.
        block: where the vector is read and acts.
        vectors: [L, d], row `k` for the output of block `k`; None where the study makes none.
        towards: which end of the vectors is which.
        rows: results, baselines and controls.
        notes: what could not be measured, and why.
        examples: what the model said.
        sizes: what the numbers rest on: questions, tokens, judge, seed.
        table: single rows of what was screened, the most suspicious first.
        trait: prompts and questions of the trait; None for the axis.
        questions: those that extraction has not seen.
        metadata: what else a file of the vectors says.
        model: the model's id, or the name of its folder.
    """

    name: str
    title: str
    about: str
    block: int
    vectors: Float[Tensor, "L d"] | None = None
    towards: str = ""
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    examples: Sequence[Example] = ()
    sizes: Mapping[str, object] = field(default_factory=dict)
    table: Sequence[Mapping[str, object]] = ()
    trait: Trait | None = None
    questions: Sequence[str] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    model: str = ""

    @property
    def stem(self) -> str:
        """Of its files' names."""
        return file_stem(self.name)

    @property
    def where(self) -> str:
        """The block, or the blocks where a study acts at several: `block 17 (of 0 to 29)`, `blocks 12 to 25`."""
        if "blocks" in self.sizes:
            return f"blocks {self.sizes['blocks']}"
        return f"block {self.block}" + ("" if self.vectors is None else f" (of 0 to {len(self.vectors) - 1})")

    def row(self, name: str) -> Row:
        """The row of this name.

        Raises:
            KeyError: if there is none, naming those that there are.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"No row {name!r} in {self.name}; it has: {', '.join(row.name for row in self.rows)}.")

    def __str__(self) -> str:
        lines = [f"{self.title} ({self.model}, {self.where})"]
        lines += [f"  {row.kind:11}{row.name}: {row.text}{row.verdict and '; '}{row.verdict}" for row in self.rows]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def file_stem(name: str) -> str:
    """A name as that of a file in the folder that is given, whatever a trait is called.

    >>> file_stem("trait_vector-../at ease")
    'trait_vector-..-at-ease'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")


class Ledger:
    """Rows and notes of a study while it is made: what cannot be measured is a note and stops nothing."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def add(self, kind: Kind, name: str, found: Callable[[], tuple[float, Interval | None]], n: int, unit: str) -> None:
        """Keep what `found()` returns, a value and its interval; a ValueError of it, or NaN, becomes a note."""
        try:
            value, ci = found()
        except ValueError as error:
            self.notes.append(f"{name}: {error}")
            return
        if not math.isfinite(value):
            self.notes.append(f"{name}: too few answers, or all alike.")
            return
        self.rows.append(Row(kind, name, float(value), ci, n, unit))


def over(values: Float[np.ndarray, "n"]) -> Callable[[], tuple[float, Interval | None]]:
    """The mean of values, NaN left out, with an interval over them: for `Ledger.add`."""
    return statistic(len(values), lambda i: float(np.nanmean(values[i])) if (~np.isnan(values[i])).any() else np.nan)


def statistic(n: int, of: Callable[[np.ndarray], float]) -> Callable[[], tuple[float, Interval | None]]:
    """`of(indices)` of all n units, with its bootstrap interval: for `Ledger.add`."""
    return lambda: (of(np.arange(n)), bootstrap_interval(n, of, seed=GLOBAL_SEED))


def spread(values: Sequence[float] | Float[np.ndarray, "n"]) -> tuple[float, Interval]:
    """The mean of draws and the middle 95 % of them: what chance does, no interval of its mean."""
    low, high = np.quantile(np.asarray(values, dtype=float), [0.025, 0.975])
    return float(np.mean(values)), Interval(float(low), float(high))


def sizes(model: PreTrainedModel, **more: object) -> dict[str, object]:
    """What every report says of how it came about, and `more`."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {**more, "judge": current_tier().judge_model, "dtype": dtype, "seed": GLOBAL_SEED}
