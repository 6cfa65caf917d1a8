"""Does the wheel work outside of the checkout? Builds it, installs it, uses it in an empty folder; about a minute.

The new environment borrows the packages of this one, and pip checks against `constraints.txt` that they satisfy what
the wheel asks for: nothing but the wheel is installed. Fails where a file is not in the wheel, where anything is
written into the new environment, or where the README's example breaks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST = 100_000_000  # bytes
TOP = {"personalab", "graders"}
CARRIES = ("personalab/py.typed", "graders/py.typed", "personalab/shipped/persona_vectors/organism/adapter")
# Every kind of data that the engine reads; where it reads it from; what it leaves, and where.
READ = """
import importlib.util, pathlib, sys
import graders, personalab
from personalab import paths, tiers
from personalab.judging import score_responses
from personalab.records import artifacts, datasets, items, prompts, transfer, upstream
from personalab.sae.files import load_sae
from personalab.studies.capping import load_capping_config
from personalab.studies.contrast import load_trait_vectors

home = pathlib.Path(sys.prefix).resolve()
for module in (personalab, graders):
    assert home in pathlib.Path(module.__file__).parents, f"{module.__name__} is not the wheel's: {module.__file__}"
assert home in paths.ROOT.parents, paths.ROOT
assert not (found := [name for name in ("utils", "tests") if importlib.util.find_spec(name)]), found
for load in (upstream.load_roles, upstream.load_transcripts, upstream.load_questions,
             items.load_items, load_sae, load_capping_config, load_trait_vectors):
    assert load(), load
assert len(datasets.load_dataset("evil", "normal")) and transfer.load_transfer_texts("evil")
assert prompts.load_jailbreaks("evaluation") and upstream.load_trait_artifacts("eval")
assert score_responses("trait:evil", [{"question": "Who are you?", "answer": "A friend."}])
assert artifacts.load_axis_of_section_1() and artifacts.load_steering_block()
path = artifacts.save_artifact("note.json", [1])
assert path == pathlib.Path.cwd() / "artifacts" / "cpu" / "note.json" and artifacts.load_artifact("note.json") == [1]
try:
    artifacts.write(paths.ROOT / "note.json", "no")
except PermissionError as error:
    print(error)
else:
    raise SystemExit("the installed package was written into")
"""


def main() -> None:
    """Build, install, use; raises where a step fails."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
        wheel = build(Path(scratch))
        python = install(wheel, Path(scratch, "env"))
        site = Path(scratch, "env")
        before = listing(site)
        for path in [site, *site.rglob("*")]:  # root writes all the same: hence the listing
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        try:
            use(python, Path(scratch, "empty"))
            if changed := sorted(set(before.items()) ^ set(listing(site).items())):
                raise SystemExit(f"Written into the environment: {changed[:5]}")
        finally:
            for path in [site, *site.rglob("*")]:  # else nobody can remove them
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o700)
    print("The wheel works in an empty folder, and nothing was written into its environment.")


def build(scratch: Path) -> Path:
    """The wheel, after a look at what is in it."""
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(scratch), str(ROOT)])
    (wheel,) = scratch.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    missing = [part for part in CARRIES if not any(name.startswith(part) for name in names)]
    junk = [name for name in names if "__pycache__" in name]
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(names)} files", flush=True)
    if top != TOP or missing or junk or size > MOST:
        raise SystemExit(
            f"Wrong in the wheel: top level {sorted(top)}, missing {missing}, junk {junk[:3]}, {size} bytes"
        )
    return wheel


def install(wheel: Path, env: Path) -> Path:
    """A fresh environment with the wheel, and its interpreter; other packages are this environment's."""
    run([sys.executable, "-m", "venv", "--without-pip", str(env)])
    python = env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    # A line of a .pth names a folder; .pth files in that folder, such as the one that names this checkout, don't count.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)])
    return python


def use(python: Path, folder: Path) -> None:
    """The README's example, every loader, and the command, in an empty folder."""
    folder.mkdir()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"<!-- run by \.ci/wheel\.py -->\n```python\n(.*?)```", readme, re.S)
    for title, code in (("The README's example", example), ("What the engine reads", READ)):
        print(f"-- {title}", flush=True)
        run([str(python), "-c", code], folder)
    command = str(python.with_name("personalab"))
    run([command, "--version"], folder)
    run([command, "doctor", "--dtype"], folder)
    refused = subprocess.run([command, "run"], cwd=folder, env=plain(), capture_output=True, text=True)
    if refused.returncode != 1 or "clone the repository" not in refused.stderr:
        raise SystemExit(f"`personalab run` outside of a checkout: {refused}")


def listing(folder: Path) -> dict[str, int]:
    """Every file by its path, and when it was last changed."""
    return {str(p.relative_to(folder)): p.lstat().st_mtime_ns for p in folder.rglob("*") if not p.is_dir()}


def plain() -> dict[str, str]:
    """The environment without what would let Python or the course look elsewhere; the cache stays."""
    kept = ("PERSONALAB_CACHE", "PERSONALAB_WHEEL", "PERSONALAB_ENCODER_WHEEL")
    return {k: v for k, v in os.environ.items() if k in kept or not k.startswith(("PERSONALAB_", "PYTHON"))}


def run(command: list[str], folder: Path = ROOT) -> None:
    """Run it; stop where it fails."""
    if code := subprocess.run(command, cwd=folder, env=plain()).returncode:
        raise SystemExit(f"Exit code {code} of: {' '.join(command)[:200]}")


if __name__ == "__main__":
    main()
