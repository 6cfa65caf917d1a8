"""The maintainers' command: run the solutions in float32 and put on record what they show.

    python -m personalab record                  # all sections at the full budget, on the cpu tier
    python -m personalab record --section 3
    python -m personalab record --section 3 --seed 1     # its results with other answers, beside those on record

A section that runs to its end replaces its notebook, covers, results, machine, README lines, RESULTS.md and artifacts,
all of them at once; one that fails replaces nothing.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from personalab.course.cells import dumps
from personalab.course.folded import is_interactive
from personalab.course.myst import code_cells
from personalab.course.notebooks import build, save_from_loss
from personalab.course.running import Finished, chosen, run_section, save
from personalab.files import write_all
from personalab.paths import ROOT
from personalab.records.pages import pages
from personalab.records.results import merged_json, one_writer
from personalab.tiers import SEED, TIERS, current_tier

DTYPE = "float32"  # the dtype in which results depend neither on batches nor on the CPU's units


def record(section: int | str | None, root: Path = ROOT, seed: int = 0) -> int:
    """Run and record one section, or all; returns 1 if any failed, else 0.

    Args:
        seed: another than 0 draws all answers anew. Then only results and machine are kept, under `section_3_seed_1/…`.

    Raises:
        ValueError: on another tier than `cpu` as it comes, or for a section without a notebook in `solutions/`.
    """
    if current_tier() != TIERS["cpu"]:
        raise ValueError("The record is the cpu tier's: unset PERSONALAB_TIER and PERSONALAB_…_MODEL, then try again.")
    setting = {"PERSONALAB_DTYPE": DTYPE, SEED: str(seed)}
    build(root=root)  # what is recorded is what the sources say
    failed = 0
    for number, path in chosen(section, root).items():
        with tempfile.TemporaryDirectory(prefix="record-") as scratch:
            done = run_section(number, path, "full", root, Path(scratch), setting)
            if done.problems:
                save(done, root / "runs" / "failed")
                failed += 1
                continue
            if seed:
                put_beside(done, seed, root)
            else:
                put_on_record(done, Path(scratch), root)
        build(root=root)  # the text quotes what was recorded
        print(f"{done.path.stem}: {done.seconds} s, on record", flush=True)
    return int(failed > 0)


def put_beside(done: Finished, seed: int, root: Path) -> None:
    """Keep the results of another seed beside those on record."""
    solutions, name = root / "solutions", f"{done.family}_seed_{seed}"
    own = {f"{name}/{key.partition('/')[2]}": entry for key, entry in done.results.items()}
    with one_writer(solutions / "results.json"):
        results = merged_json(solutions / "results.json", own)
        machine = merged_json(solutions / "machine.json", {name: done.machine})
        write_all(
            {solutions / "results.json": results, solutions / "machine.json": machine, **pages(root, results, machine)}
        )


def put_on_record(done: Finished, artifacts: Path, root: Path) -> None:
    """Replace everything that the repository keeps of a section."""
    solutions = done.path.parent
    with one_writer(solutions / "results.json"):
        results = merged_json(solutions / "results.json", done.results)
        machine = merged_json(solutions / "machine.json", {done.family: done.machine})
        files: dict[Path, str | bytes] = {
            done.path: dumps(done.nb),
            solutions / "results.json": results,
            solutions / "machine.json": machine,
            **covers(done, solutions),
            **reference(artifacts / "cpu", root),
            **pages(root, results, machine),
        }
        save_from_loss(done.path, done.nb, root)
        write_all(files)


def covers(done: Finished, folder: Path) -> dict[Path, bytes]:
    """The picture of every cell tagged `cover`, as `folder/<cell id>.png`, for the README.

    Raises:
        ValueError: if such a cell shows no picture.
    """
    found = {}
    for cell in code_cells(done.nb):
        if "cover" in cell.metadata.get("tags", []):
            shown = [out.get("data", {}) for out in cell.outputs]
            pictures = [data["image/png"] for data in shown if "image/png" in data and not is_interactive(data)]
            if not pictures:
                raise ValueError(f"{done.path.name}, cell {cell.id}: it is tagged cover, but shows no picture.")
            found[folder / f"{cell.id}.png"] = base64.b64decode(pictures[-1])
    return found


def reference(artifacts: Path, root: Path) -> dict[Path, bytes]:
    """What the section saved, by the place where the repository keeps it; the steps of its pipelines are left out."""
    places: dict[str, Path | None] = {"vectors": root / "persona_vectors" / "vectors", "steps": None}
    found: dict[Path, bytes] = {}
    for path in sorted(p for p in artifacts.rglob("*") if p.is_file()):
        top, *rest = path.relative_to(artifacts).parts
        place = places.get(top, root / "artifacts" / "reference" / "cpu" / top)
        if place:
            found[place.joinpath(*rest)] = path.read_bytes()
    return found
