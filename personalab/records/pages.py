"""What readers see of the record: the README's headlines, each beside the dullest explanation, and RESULTS.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from personalab.files import write_all
from personalab.paths import ROOT
from personalab.records.provenance import one_line
from personalab.records.results import entry_text
from personalab.records.rows import MAIN_TRAITS, ROWS

TABLE_START, TABLE_END = "<!-- results:start -->", "<!-- results:end -->"

_SEED = re.compile(r"_seed_\d+(?=/)")

Results = dict[str, dict[str, Any]]


class Beside(NamedTuple):
    """What stands beside a headline: what it is, and the key of its value."""

    what: str
    key: str


class Headline(NamedTuple):
    """A claim, and what else could have produced its number. In keys, `{trait}` stands for each main trait.

    Attributes:
        baseline: the dullest thing that could produce it.
        control: a matched control, in which what is claimed is not there.
        difference: key of headline minus baseline (or minus control), resampled jointly.
        paper: what the paper reports for its models.
    """

    says: str
    key: str
    baseline: Beside | None = None
    control: Beside | None = None
    difference: Beside | None = None
    paper: str = "-"

    def all_keys(self) -> Iterator[str]:
        """All keys of the row, one a trait where there is one a trait."""
        for key in (self.key, *(cell.key for cell in (self.baseline, self.control, self.difference) if cell)):
            yield from _each(key).values()


HEADLINES = (
    Headline(
        "PC1 of 40 personas is the Assistant Axis: abs. cosine",
        "section_1/pc1_axis_cosine",
        Beside("cast without assistant-like roles", "section_1/casts/0_14_16"),
        difference=Beside("minus its mean with random personas as defaults", "section_1/pc1_axis_cosine_minus_null"),
        paper="> 0.6, middle layers > 0.71",
    ),
    Headline(
        "Therapy-like and philosophical talks drift, coding doesn't: Cohen's d of their slopes",
        "section_2/drift_slope_effect_size",
        Beside("random directions", "section_2/drift_slope_effect_size_random"),
        Beside("turns shuffled", "section_2/drift_slope_effect_size_shuffled"),
        Beside("axis minus random", "section_2/drift_slope_effect_size_minus_random"),
        paper="> 0",
    ),
    Headline(
        "Capping keeps answers in persona: share out of persona, capped",
        "section_2/harm_rate_capped",
        Beside("no cap", "section_2/harm_rate_default"),
        Beside("random caps that remove as much", "section_2/harm_rate_random_cap"),
        Beside("capped minus random", "section_2/harm_rate_capped_minus_random"),
        "cut by about 60 %",
    ),
    Headline(
        "and costs little: multiple-choice items right, capped",
        "section_2/capability_capped",
        Beside("no cap", "section_2/capability_default"),
        difference=Beside("", "section_2/capability_difference"),
        paper="no loss",
    ),
    Headline(
        "A trait vector tells held-out answers apart: AUC",
        "section_3/{trait}/heldout_auc",
        Beside("word counts", "section_3/{trait}/heldout_auc_words"),
        Beside("identical text under two prompts, 0.5 if the prompt leaves no trace", "section_3/{trait}/leak_auc"),
        Beside("vector minus words", "section_3/{trait}/heldout_auc_minus_words"),
    ),
    Headline(
        "On texts chosen so that words fail (traits without their usual words, look-alikes): AUC",
        "section_3/{trait}/transfer_auc",
        Beside("word counts", "section_3/{trait}/transfer_auc_words"),
        Beside("token embeddings", "section_3/{trait}/transfer_auc_embeddings"),
        Beside("vector minus words", "section_3/{trait}/transfer_auc_minus_words"),
    ),
    Headline(
        "Steering along it raises the trait: gain in the judge's score, coherent answers",
        "section_4/{trait}/steering_gain",
        Beside("words of each answer shuffled", "section_4/{trait}/steering_effect_shuffled"),
        Beside("random vector of the same length", "section_4/{trait}/random_effect"),
        Beside("vector minus random", "section_4/{trait}/steering_effect_minus_random"),
    ),
    Headline(
        "The state before the answer foretells its score: r, mean of three traits",
        "section_4/pre_response_r",
        Beside("the prompt's grade alone", "section_4/pre_response_r_grade"),
        Beside("within a system prompt", "section_4/pre_response_r_within"),
        Beside("state minus grade", "section_4/pre_response_r_minus_grade"),
        "0.75 to 0.83",
    ),
    Headline(
        "The shift before the answer foretells the trait after finetuning: r over 24 datasets",
        "finetuning/{trait}/shift_r",
        Beside("the judge's score of the training answers", "finetuning/{trait}/shift_r_judge"),
        Beside("random directions", "finetuning/{trait}/shift_r_random"),
        Beside("shift minus judge", "finetuning/{trait}/shift_r_minus_judge"),
        "0.76 to 0.97",
    ),
    Headline(
        "Steering towards a trait in training keeps it out: share of what bad data teach",
        "finetuning/prevention_cut",
        Beside("a prompt in training", "finetuning/inoculation_cut"),
        Beside("as strong, while it answers", "finetuning/inference_cut"),
        Beside("items right, minus plain finetuning, points", "finetuning/prevention_capability_difference"),
        "most, no loss",
    ),
)


def _each(key: str) -> dict[str, str]:
    """The key, under "", or one key a trait, under the trait."""
    return {trait: key.format(trait=trait) for trait in MAIN_TRAITS} if "{trait}" in key else {"": key}


def _cell(beside: Beside | None, results: Results) -> str:
    if beside is None:
        return "-"
    return "<br>".join(filter(None, [beside.what, *_values(beside.key, results)]))


def _values(key: str, results: Results) -> list[str]:
    return [f"{trait} {entry_text(results[each])}".strip() for trait, each in _each(key).items() if each in results]


def short_table(results: Results) -> str:
    """The README's table, in Markdown: headline, baseline, difference; three values are the main traits'."""
    rows = ["| claim | here | the dullest explanation | difference |", "|---|---|---|---|"]
    for line in HEADLINES:
        if here := _short(line.key, results):
            beside = (_short_cell(line.baseline, results), _short_cell(line.difference, results))
            rows.append(f"| {line.says} | {here} | {' | '.join(beside)} |")
    return "\n".join(rows)


def _short_cell(beside: Beside | None, results: Results) -> str:
    return ": ".join(filter(None, [beside.what, _short(beside.key, results)])) if beside else "-"


def _short(key: str, results: Results) -> str:
    """A value with its interval, or each trait's value."""
    found = [results[each] for each in _each(key).values() if each in results]
    if len(found) == 1 and found[0]["ci"]:
        return "{:.2f} [{:.2f}, {:.2f}]".format(found[0]["value"], *found[0]["ci"])
    return ", ".join(f"{x:.0f}" if abs(x) >= 10 else f"{x:.2f}" for x in (entry["value"] for entry in found))


def headline_table(results: Results) -> str:
    """All that stands beside the headlines: baseline, control, difference, paper."""
    rows = [
        "| claim | here | dullest baseline | matched control | difference | paper |",
        "|---|---|---|---|---|---|",
    ]
    for line in HEADLINES:
        if values := _values(line.key, results):
            beside = (_cell(cell, results) for cell in (line.baseline, line.control, line.difference))
            rows.append(f"| {line.says} | {'<br>'.join(values)} | {' | '.join(beside)} | {line.paper} |")
    return "\n".join(rows)


def results_page(results: Results, machine: dict[str, Any]) -> str:
    """RESULTS.md: all that is on record, by section."""
    parts = [
        "# Results on record",
        "Made by `python -m personalab record` from [solutions/results.json](solutions/results.json): value, 95 % "
        "interval, and n, the number of answers, roles, prompts or draws behind it.",
        _recorded_on(machine),
        "## Headlines",
        headline_table(results),
    ]
    meanings = {key: ROWS.get(_SEED.sub("", key), "") for key in results}  # with another seed, the same is measured
    known = sorted(filter(meanings.get, results), key=lambda key: list(ROWS).index(_SEED.sub("", key)))
    others = sorted(key for key in results if not meanings[key])
    for section in sorted({key.partition("/")[0] for key in results}):
        rows = ["| key | result | what it is |", "|---|---|---|"]
        for key in [*known, *others]:
            if key.startswith(section + "/"):
                rows.append(f"| `{key}` | {entry_text(results[key])} | {meanings[key]} |")
        parts += [f"## {section.replace('_', ' ').capitalize()}", "\n".join(rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _recorded_on(machine: dict[str, Any]) -> str:
    made_on = one_line(machine)
    return f"Recorded on ([machine.json](solutions/machine.json)): {made_on}." if made_on else ""


def pages(root: Path, results: str, machine: str) -> dict[Path, str]:
    """The pages as the record has them, by their places; `results` and `machine` are JSON. None without a README.

    Raises:
        ValueError: if the README has lost its markers.
    """
    readme = root / "README.md"
    if not readme.exists():
        return {}
    text, found, made_on = readme.read_text("utf-8"), json.loads(results), json.loads(machine)
    if TABLE_START not in text or TABLE_END not in text:
        raise ValueError(f"README.md lacks the markers {TABLE_START} and {TABLE_END} around its results table.")
    head, rest = text.split(TABLE_START, 1)
    tail = rest.split(TABLE_END, 1)[1]
    return {
        readme: f"{head}{TABLE_START}\n{short_table(found)}\n{TABLE_END}{tail}",
        root / "RESULTS.md": results_page(found, made_on),
    }


def update_pages(root: Path = ROOT, check: bool = False) -> list[str]:
    """Write the pages anew from what is in `solutions/` (unless `check`); returns the names of those that differed.

    Raises:
        ValueError: if the README has lost its markers.
    """
    results, machine = (
        path.read_text("utf-8") if path.exists() else "{}"
        for path in (root / "solutions" / "results.json", root / "solutions" / "machine.json")
    )
    stale = {
        path: text
        for path, text in pages(root, results, machine).items()
        if not path.exists() or path.read_text("utf-8") != text
    }
    if not check:
        write_all(dict(stale))
    return [path.name for path in stale]
