"""A larger tier's notebooks from end to end without its GPU, network or key: `python -m personalab run --dry-run`.

The tier's own settings with tiny random models of the same classes (`personalab.studies.tiny_hub`: a quarter of the
blocks, at the same shares of the depth) and a local server in place of hosted models (`personalab.endpoint.stand_in`),
at the least budget that runs every cell. What fails here fails on the tier too. Nothing is written but in a folder of
its own, which goes when it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from personalab.course.running import Finished, chosen, run_section
from personalab.endpoint.stand_in import StandIn, Traffic, stand_in
from personalab.paths import ROOT
from personalab.sae.files import OWN as OWN_SAE
from personalab.setup import work
from personalab.setup.gpu import GPUS
from personalab.setup.work import Work
from personalab.studies.tiny_hub import depth_of, make_artifacts, make_datasets, make_hub, shrunk
from personalab.tiers import BLOCKS, Tier, current_tier

BUDGET, JUDGE = "dry", "stand-in-judge"
# How far a count may lie from its formula. Answers are nearly exact; texts are longer or shorter than their mean, and
# what they share is read once.
LIMITS = {"calls": (0.9, 1.1), "tokens sent": (0.6, 1.4), "tokens read": (0.6, 1.6), "tokens decoded": (0.75, 1.25)}


def walk(section: str | None, root: Path = ROOT) -> int:
    """Execute one section's solutions, or all, and print what each asked for. Returns 1 if any failed, else 0.

    Raises:
        ValueError: for a section without a notebook, and for a tier whose models this machine runs anyway.
    """
    tier = current_tier()
    if tier.name not in GPUS:
        raise ValueError(
            f"A dry run is for a tier that this machine need not hold; {tier.name!r} runs as it is: "
            "python -m personalab run --budget quick. For another, set PERSONALAB_TIER to colab or a100."
        )
    notebooks, failed = chosen(section, root), 0
    with tempfile.TemporaryDirectory(prefix="dry-") as scratch, stand_in() as server:
        place = Path(scratch)
        make_hub(place / "hub", tier)
        make_datasets(place / "datasets")
        artifacts = place / "artifacts"
        make_artifacts(artifacts / tier.folder, shrunk(tier))
        setting = _setting(place, artifacts / tier.folder / "sae", server, tier) | _blocks(shrunk(tier))
        for number, path in notebooks.items():
            here = _judged(tier, number)
            judge = {} if here is tier else {"PERSONALAB_JUDGE_MODEL": here.judge_model}
            done = run_section(number, path, BUDGET, root, artifacts, setting | judge)
            traffic = server.take()
            lines = _report(done, traffic, here)
            if not done.problems:
                lines += _compared(done, traffic, here)
            failed += bool(done.problems)
            print(*lines, *done.problems, sep="\n", flush=True)
    print(f"Dry run of tier {tier.name}: {len(notebooks) - failed} of {len(notebooks)} sections passed.")
    return int(failed > 0)


def _judged(tier: Tier, section: str) -> Tier:
    """`tier` as a section is walked: where Section 3 looks for pairs that differ in a trait, the embedded judge would
    find none among a random model's answers, and a judge by choice, which the stand-in plays, takes its place."""
    return replace(tier, judge_model=JUDGE) if section == "3" and tier.judged_here else tier


def _setting(place: Path, sae: Path, server: StandIn, tier: Tier) -> dict[str, str]:
    """The kernels' environment: no hub, no key, no answer kept, whatever this machine's user has set; the card's dtype,
    since "auto" would mean this CPU's."""
    return {
        "HF_HOME": str(place),
        "HF_HUB_CACHE": str(place / "hub"),
        "HF_DATASETS_CACHE": str(place / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "",
        "CUDA_VISIBLE_DEVICES": "",
        "PERSONALAB_DTYPE": os.environ.get("PERSONALAB_DTYPE") or GPUS[tier.name].dtype,
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "",
        "OPENROUTER_API_KEY": "",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",  # which some libraries ask first
        "PERSONALAB_RESPONSE_CACHE": "off",
        OWN_SAE: str(sae),
    }


def _blocks(tier: Tier) -> dict[str, str]:
    return {f"PERSONALAB_{name.upper()}": str(getattr(tier, name)) for name in BLOCKS}


def _report(done: Finished, traffic: Mapping[str, Traffic], tier: Tier) -> list[str]:
    """One line for the section, one a model that it loaded, one a hosted model that it asked."""
    lines = [f"{done.path.stem}: {done.seconds:.0f} s"]
    uses = {getattr(tier, f"{kind}_model"): kind for kind in ("response", "trait", "capping", "persona")}
    for name, found in done.machine.get("tokens", {}).items():
        tokens = f"{found['read']:,} tokens read, {found['decoded']:,} decoded, {found['passes']:,} passes"
        lines.append(f"  loaded {name} ({uses.get(name, 'other')}): {tokens}")
    for name, t in traffic.items():
        lines.append(f"  asked {name}: {t.calls:,} calls, {t.read:,} tokens read, {t.written:,} written")
    return lines


def _compared(done: Finished, traffic: Mapping[str, Traffic], tier: Tier) -> list[str]:
    """What a section counted beside what `personalab.setup.work` expects; noted as a problem where they are apart."""
    steps = work.work_of(done.section, tier, tier.budgets[BUDGET], depth_of(tier.trait_model), reread=True)
    counted, shares = _counted(done, traffic), []
    for what, n in _formula(steps).items():
        shares.append(f"{what} {counted[what]:,} of {n:,}")
        low, high = LIMITS[what]
        if not low * n <= counted[what] <= high * n:
            apart = f"Counted {counted[what]:,} {what} where personalab/setup/work.py expects {n:,}"
            done.problems.append(f"{apart}: bring section_{done.section} there up to date.")
    return [f"  beside the formulas of the tier's page: {', '.join(shares)}"]


def _formula(steps: Sequence[Work]) -> dict[str, int]:
    """What `personalab.setup.work` expects, in the terms in which a run is counted."""
    answers = sum(step.n for step in steps if step.written and not step.hosted)
    return {
        "calls": work.calls(steps),
        "tokens sent": work.read(steps, hosted=True),
        "tokens read": work.read(steps, hosted=False),
        "tokens decoded": work.written(steps, hosted=False) - answers,  # the first of each comes with its prompt
    }


def _counted(done: Finished, traffic: Mapping[str, Traffic]) -> dict[str, int]:
    own, hosted = done.machine.get("tokens", {}).values(), traffic.values()
    return {
        "calls": sum(t.calls for t in hosted),
        "tokens sent": sum(t.read for t in hosted),
        "tokens read": sum(n["read"] for n in own),
        "tokens decoded": sum(n["decoded"] for n in own),
    }
