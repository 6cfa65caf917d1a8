"""Results on record: what a run measured, with n and interval, and the README's table made from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from personalab.files import write
from personalab.paths import ROOT
from personalab.records.provenance import one_line
from personalab.tiers import GLOBAL_SEED, current_tier

RECORD = "PERSONALAB_RECORD"  # environment: the JSON file in which `record` collects results; unset: print only
TABLE_START, TABLE_END = "<!-- results:start -->", "<!-- results:end -->"

MAIN_TRAITS = ("sycophantic", "evil", "hallucinating")


def _each(section: str, name: str, meaning: str, paper: str) -> dict[str, tuple[str, str]]:
    """One row for each of the three main traits."""
    return {f"{section}/{trait}/{name}": (f"{trait}: {meaning}", paper) for trait in MAIN_TRAITS}


# What the README shows of a section's results: key, what it says, what the paper found.
HEADLINES = {
    "section_1/pc1_axis_cosine": (
        "abs. cosine of PC1 (roles only) and the Assistant Axis (other questions)",
        "> 0.71",
    ),
    "section_1/pc1_axis_p": ("permutation p of that cosine, random personas as defaults", "-"),
    "section_1/pc1_share": ("variance of persona space along PC1", "-"),
    "section_1/default_minus_fantastical": (
        "lowest default minus highest fantastical role, cosine with the axis",
        "> 0",
    ),
    "section_1/played_share": ("share of role answers that the judge scores 3", "-"),
    "section_1/filtered_axis_cosine": ("cosine of the axis with and without the filter by score", "-"),
    "section_1/filtered_pc1_axis_cosine": ("abs. cosine of PC1 and the axis, answers that score 3 only", "> 0.71"),
    "section_1/seconds": ("seconds for the whole section", "-"),
    "section_2/drift_effect_size": (
        "Cohen's d: projections of coding against therapy-like and philosophical talks",
        "> 0",
    ),
    "section_2/steering_spearman": ("rank correlation of steering towards the Assistant with role adherence", "< 0"),
    "section_2/harm_rate_default": ("share of answers out of persona on held-out prompts, plain", "-"),
    "section_2/harm_rate_capped": ("the same, capped", "-"),
    "section_2/harm_cut": ("relative cut by capping", "about 60 %"),
    "section_2/harm_rate_random_cap": ("control: capped along random directions", "-"),
    "section_2/capability_default": ("multiple-choice items right, plain", "-"),
    "section_2/capability_capped": ("the same, capped", "no loss"),
    "section_2/capability_difference": ("their difference", "no loss"),
    "section_2/harm_cut_strongest": ("relative cut by the strongest cap within the limits", "-"),
    "section_2/capability_difference_strongest": ("its difference in items right", "-"),
    "section_2/perplexity_ratio": ("perplexity of prose, capped over plain", "-"),
    "section_2/coherence_default": ("coherence of those answers (0-100), plain", "-"),
    "section_2/coherence_capped": ("the same, capped", "-"),
    "section_2/seconds": ("seconds for the whole section", "-"),
    **_each("organism", "contrast", "judge's score of the trait organism, prompts for minus prompts against it", "-"),
    "coherence/spearman_readers": (
        "rank correlation of the coherence that gates steering with readers' labels, held-out answers",
        "-",
    ),
    "coherence/spearman_readers_judge": ("control: the embedded judge's coherence, same answers", "-"),
    "coherence/spearman_readers_adapter": ("the same, answers of the organism that the course ships", "-"),
    **_each("section_3", "effective_pairs", "effective pairs of 100", "-"),
    **_each("section_3", "heldout_auc", "AUC of held-out answers re-read under one neutral prompt", "-"),
    **_each("section_3", "leak_auc", "control: AUC of identical text under two prompts, same block", "0.5 if none"),
    "section_3/sae_explained_variance": ("variance of held-out states that the sparse autoencoder explains", "-"),
    "section_3/seconds": ("seconds for the whole section", "-"),
    **_each("section_4", "steering_spearman", "rank correlation of coefficient and score, single answers", "> 0"),
    **_each("section_4", "steering_range", "lowest to highest mean score, coherent range", "76 (sycophantic)"),
    **_each("section_4", "random_effect", "control: gain along a random vector of the same length", "-"),
    "section_4/pre_response_r": ("projection before the answer against its score, r, mean of three", "0.75-0.83"),
    "section_4/pre_response_r_within": ("the same within a system prompt", "weaker"),
    "section_4/axis_share": ("share of the Assistant Axis in the span of seven trait vectors", "-"),
    "section_4/axis_share_contrasts": ("control: seven random contrasts between ordinary answers", "-"),
    "section_4/seconds": ("seconds for the whole section", "-"),
}


def record(
    key: str,
    value: SupportsFloat,
    n: int | None = None,
    ci: Sequence[SupportsFloat] | None = None,
    *,
    model: str | None = None,
) -> None:
    """Print a result; in a run of the solutions, also collect it in the file that `PERSONALAB_RECORD` names.

    Args:
        key: "section_1/name" (section 4's finetuning: "bonus/name"; others: "organism/name", "coherence/name").
        n: number of units behind the value (responses, questions, …).
        ci: 95 % interval `(low, high)`.
        model: id of the model measured (default: the tier's persona model).

    Raises:
        ValueError: if the value or the interval is not finite, or the key has no section.
    """
    section, _, name = key.partition("/")
    if not (section and name):
        raise ValueError(f"Key {key!r} must look like 'section_1/name'.")
    numbers = [float(value), *map(float, ci or ())]
    if not all(map(math.isfinite, numbers)) or (ci is not None and len(ci) != 2):
        raise ValueError(
            f"{key}: value {value!r} and interval {ci!r} must be finite numbers, the interval (low, high)."
        )
    entry = {
        "value": numbers[0],
        "n": None if n is None else int(n),
        "ci": numbers[1:] or None,
        "section": section,
        "tier": current_tier().name,
        "model": model or current_tier().persona_model,
        "seed": GLOBAL_SEED,
    }
    print(f"{key}: {entry_text(entry)}")
    if target := os.environ.get(RECORD):
        _merge(Path(target), {key: entry})


def entry_text(entry: dict[str, Any]) -> str:
    """`0.87 [0.80, 0.91], n = 24`, leaving out what an entry lacks."""
    text = _number(entry["value"])
    if entry["ci"]:
        text += f" [{_number(entry['ci'][0])}, {_number(entry['ci'][1])}]"
    return text + (f", n = {entry['n']}" if entry["n"] is not None else "")


def _number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _merge(path: Path, entries: dict[str, Any]) -> None:
    write(path, json.dumps(read_json(path) | entries, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds, nothing if there is none."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def merge_json(path: Path, new: Mapping[str, Any]) -> None:
    """Put `new` into the JSON file, in place of all old keys that begin alike (up to the first `/`)."""
    write(path, merged_json(path, new))


def merged_json(path: Path, new: Mapping[str, Any]) -> str:
    """The text of the JSON file with `new` in place of all old keys that begin alike."""
    families = {key.split("/")[0] for key in new}
    merged = {key: value for key, value in read_json(path).items() if key.split("/")[0] not in families} | dict(new)
    return json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def results_table(results: dict[str, Any]) -> str:
    """The README's table, in Markdown."""
    rows = ["| result | here: value [95 % interval], n | paper |", "|---|---|---|"]
    for key, (meaning, paper) in HEADLINES.items():
        if key in results:
            rows.append(f"| {meaning} (`{key}`) | {entry_text(results[key])} | {paper} |")
    return "\n".join(rows)


def compare(own: dict[str, Any], recorded: dict[str, Any], shown: int = 5) -> str:
    """How many of your results lie inside the recorded 95 % intervals, and the first that don't, one line each.

    Empty if the two have no key with an interval in common.
    """
    both = {key: recorded[key] for key in sorted(own) if recorded.get(key, {}).get("ci")}
    outside = [key for key, entry in both.items() if not entry["ci"][0] <= own[key]["value"] <= entry["ci"][1]]
    if not both:
        return ""
    lines = [f"inside the recorded interval: {len(both) - len(outside)} of {len(both)}"]
    lines += [f"  {key}: {_number(own[key]['value'])}, recorded {entry_text(recorded[key])}" for key in outside[:shown]]
    if len(outside) > shown:
        lines.append(f"  and {len(outside) - shown} more")
    return "\n".join(lines)


def readme_text(text: str, results: str, machine: str = "{}") -> str:
    """The README `text` with the table of `results`, and the machine they come from; both JSON.

    Raises:
        ValueError: if the README has lost its markers.
    """
    if TABLE_START not in text or TABLE_END not in text:
        raise ValueError(f"README.md lacks the markers {TABLE_START} and {TABLE_END} around its results table.")
    head, rest = text.split(TABLE_START, 1)
    tail = rest.split(TABLE_END, 1)[1]
    made_on = one_line(json.loads(machine))
    note = f"\n\nRecorded on ([machine.json](solutions/machine.json)): {made_on}." if made_on else ""
    return f"{head}{TABLE_START}\n{results_table(json.loads(results))}{note}\n{TABLE_END}{tail}"


def update_readme(root: Path = ROOT, check: bool = False) -> bool:
    """Put what is on record in `solutions/` between the README's markers; returns whether it differed.

    Raises:
        ValueError: if the README has lost its markers.
    """
    readme, solutions = root / "README.md", root / "solutions"
    text = readme.read_text(encoding="utf-8")
    results, machine = (
        path.read_text(encoding="utf-8") if path.exists() else "{}"
        for path in (solutions / "results.json", solutions / "machine.json")
    )
    fresh = readme_text(text, results, machine)
    if fresh != text and not check:
        write(readme, fresh)
    return fresh != text
