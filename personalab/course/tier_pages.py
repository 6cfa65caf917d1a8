"""What a full run of a tier takes, section by section: printed, and written into docs/tiers/ where a check holds it.

python -m personalab tiers            # the larger tiers' tables
python -m personalab tiers --write    # every tier's, into its page
python -m personalab tiers --counted runs/quick    # what a run counted, for the comparison in docs/tiers.md
"""

from __future__ import annotations

import datetime
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalab.course import measurements
from personalab.course.myst import is_wanted
from personalab.course.running import FAMILIES
from personalab.files import read_text, write
from personalab.paths import ROOT
from personalab.records.results import read_json
from personalab.setup.gpu import GPUS, needs
from personalab.setup.shapes import SHAPES
from personalab.setup.work import SECTIONS, Work, calls, read, work_of, written
from personalab.tiers import TIERS, Budget, Tier

PRICES = Path("docs/tiers/prices.toml")
COUNTED = Path("docs/tiers/counted.json")  # tokens of the embedded model's own runs, by section and budget
_MARKED = re.compile(r"(<!-- (\w+): generated -->\n).*?(<!-- end of \2 -->)", re.S)


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens, read on a day at a place."""

    input: float
    output: float
    date: datetime.date
    source: str


def prices(root: Path = ROOT) -> dict[str, Price]:
    """By model, from docs/tiers/prices.toml.

    Raises:
        ValueError: naming the file, and the model and field at fault.
    """
    try:
        tables = tomllib.loads(read_text(root / PRICES))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{PRICES} is not TOML: {error}.") from None
    return {model: _price(model, row) for model, row in tables.items()}


def _price(model: str, row: Any) -> Price:
    wanted = {"input": (int, float), "output": (int, float), "date": datetime.date, "source": str}
    for field, kind in wanted.items():
        value: Any = row.get(field) if isinstance(row, dict) else None
        if not isinstance(value, kind) or value == "" or (isinstance(value, int | float) and value < 0):  # type: ignore[arg-type]
            raise ValueError(f"{PRICES}, {model!r}: {field} is {value!r}; see the example at the top of the file.")
    return Price(row["input"], row["output"], row["date"], row["source"])


def table(tier: Tier, budget: Budget, root: Path = ROOT) -> list[str]:
    """Rows of a Markdown table, one a section: calls, tokens behind the endpoint and here, GPU memory, time, price."""
    gpu, known = GPUS[tier.name], prices(root)
    lines = [
        f"| section | calls | tokens sent | received | read here | written here | GB in {gpu.dtype} | min | dollars |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for section in SECTIONS:
        steps = work_of(section, tier, budget)
        found = needs(steps, tier, gpu)
        numbers = [read(steps, hosted=True), written(steps, hosted=True), read(steps, hosted=False)]
        numbers.append(written(steps, hosted=False))
        tokens = " | ".join(f"{n / 1e3:,.0f} k" for n in numbers)
        end = f"{found.peak / 1e9:.0f} | {math.ceil(found.seconds / 60)} | {_dollars(steps, tier, known)}"
        lines.append(f"| {section} | {calls(steps):,} | {tokens} | {end} |")
    return lines


def _dollars(steps: list[Work], tier: Tier, known: Mapping[str, Price]) -> str:
    total = 0.0
    for step in (step for step in steps if step.hosted):
        price = known.get(getattr(tier, f"{step.model}_model"))
        if price is None:
            return "no price"
        total += (step.tokens_read * price.input + step.tokens_written * price.output) / 1e6
    return f"{total:.2f}"


def models(tier: Tier) -> list[str]:
    """Rows of a Markdown table, one a model: parameters, bytes, licence."""
    lines = [
        "| model | of | parameters | weights | a token's keys and values | GFLOP a token | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    dtype = GPUS[tier.name].dtype
    for kind in ("persona", "capping", "trait"):
        name = getattr(tier, f"{kind}_model")
        s = SHAPES[name]
        sections = {"persona": "Section 1", "capping": "Section 2", "trait": "Sections 3, 4, 4b"}[kind]
        sizes = f"{s.parameters / 1e9:.2f} G | {s.weight_bytes(dtype) / 1e9:.1f} GB"
        token = f"{s.cache_bytes(1, dtype) / 1e3:.0f} kB | {s.flops(1) / 1e9:.1f}"
        lines.append(f"| {name} | {sections} | {sizes} | {token} | {s.licence}{', gated' * s.gated} |")
    return lines


def counted(root: Path = ROOT) -> list[str]:
    """Rows of a Markdown table: tokens that the embedded model's runs counted, beside the formulas'."""
    lines = ["| section | budget | | counted | by formula | ratio |", "|---|---|---|---|---|---|"]
    tier = TIERS["cpu"]
    for key, tokens in json.loads(read_text(root / COUNTED)).items():
        section, budget = key.split("/")
        steps = work_of(section, tier, tier.budgets[budget])
        answers = sum(step.n for step in steps if step.written)
        formula = {"read": read(steps, hosted=False), "decoded": written(steps, hosted=False) - answers}
        for what, n in formula.items():
            here = sum(found[what] for found in tokens.values())
            lines.append(f"| {section} | {budget} | {what} | {here:,} | {n:,} | {here / n:.2f} |")
    return lines if len(lines) > 2 else []


def take_counts(run: Path, root: Path = ROOT) -> list[str]:
    """Note what a run of the `cpu` tier counted (`runs/quick`, say) in docs/tiers/counted.json; returns its sections.

    Raises:
        ValueError: if the folder is none of a run at the full or the quick budget of that tier, or counted nothing.
    """
    machines = read_json(run / "machine.json")
    sections = {section: FAMILIES.get(section, f"section_{section}") for section in SECTIONS}
    found = {
        f"{section}/{run.name}": machines[family]["tokens"]
        for section, family in sections.items()
        if machines.get(family, {}).get("tokens")
    }
    if run.name not in ("full", "quick") or not found:
        raise ValueError(f"{run}/machine.json holds no tokens: name runs/quick or runs/full after a run of tier cpu.")
    kept = json.loads(read_text(root / COUNTED)) | found
    write(root / COUNTED, json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    return sorted(found)


def build(root: Path = ROOT, *, check: bool = False) -> list[Path]:
    """Bring the generated parts of docs/tiers up to date; returns the pages that were not (`check` writes none).

    Raises:
        ValueError: for a page that asks for a part that nobody makes.
    """
    changed = []
    for page in [root / "docs" / "tiers.md", *sorted((root / "docs" / "tiers").glob("*.md"))]:
        old = read_text(page)
        new = _filled(old, page.stem, root)
        if new != old:
            changed.append(page)
            if not check:
                write(page, new)
    return changed


def _filled(text: str, page: str, root: Path) -> str:
    return _MARKED.sub(lambda m: "\n".join([m[1].rstrip(), *_part(page, m[2], root), m[3]]), text)


def _part(page: str, name: str, root: Path) -> list[str]:
    measured = {"counted": counted, "formulas": measurements.formulas, "gpu": measurements.on_gpu}
    if name in measured:
        return measured[name](root)
    tier = TIERS.get(page)
    if tier is None or name not in ("work", "quick", "models"):
        raise ValueError(f"docs/tiers/{page}.md asks for {name!r}: a tier's page has work, quick and models.")
    if name == "models":
        return models(tier)
    return table(tier, tier.budgets["full" if name == "work" else "quick"], root)


def announce(tier: Tier, budget: str, section: str | None, root: Path = ROOT) -> list[str]:
    """What a run is about to take, for a larger tier: lines to print before it begins; none for others."""
    if tier.name not in GPUS or any(getattr(tier, f"{k}_model") not in SHAPES for k in ("persona", "capping", "trait")):
        return []
    rows = table(tier, tier.budgets[budget], root)
    chosen = [row for row in rows[2:] if is_wanted(row.split("|")[1].strip(), section)]
    return [
        f"Expected of tier {tier.name} at the {budget} budget on one {GPUS[tier.name].name}, by formula "
        f"(docs/tiers/{tier.name}.md explains the columns):",
        rows[0],
        *chosen,
    ]
