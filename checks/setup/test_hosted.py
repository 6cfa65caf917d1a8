"""The first cell of a published notebook, in an empty folder: from a repository on this disk, in a bare environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from personalab.course.cells import dumps
from personalab.course.myst import derive
from personalab.course.published import Published, add_to
from personalab.files import write
from personalab.paths import ROOT
from personalab.setup import hosted
from personalab.setup.venv import SetupError

TAG, SECTION = "v0.1.0", "section_1_persona_space"
MISSING = ("jaxtyping", "wadler_lindig")  # pure Python, small, and the set-up cell needs them
# Code cells by their place in the only notebook of the current folder, as a kernel would run them.
KERNEL = """
import json, os, sys, time
(name,) = [name for name in os.listdir() if name.endswith(".ipynb")]
code = ["".join(c["source"]) for c in json.load(open(name, encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
for place in sys.argv[1:]:
    started = time.perf_counter()
    exec(code[int(place)], globals())
    print(f"cell {place}: {time.perf_counter() - started:.2f} s, in {os.getcwd()}")
"""


def git(*arguments: str | Path) -> None:
    who = ("-c", "user.name=us", "-c", "user.email=us@example.org", "-c", "gc.auto=0")
    subprocess.run(["git", *who, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository with this working tree under a tag, and an archive where a host would have it."""
    repository = tmp_path_factory.mktemp("origin") / "lab.git"
    git("init", "-q", "--bare", repository)
    there = ("--git-dir", repository, "--work-tree", ROOT)
    git(*there, "add", "-A", "--", ROOT)
    git(*there, "commit", "-qm", "a release")
    git(*there, "tag", TAG)
    archive = repository / "archive" / "refs" / "tags" / f"{TAG}.tar.gz"
    archive.parent.mkdir(parents=True)
    parts = ("personalab", "pyproject.toml", "constraints.txt", "utils.py")
    git("--git-dir", repository, "archive", "--prefix=lab-0.1.0/", "-o", archive, TAG, *parts)
    return repository


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of an environment that lacks `MISSING`, with an index of nothing else; its Python is PYTHON."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    (folder / "borrowed").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(MISSING) and path.suffix != ".pth":
            (folder / "borrowed" / path.name).symlink_to(path)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(f"{folder / 'borrowed'}\n")
    for name in MISSING:
        wheel_of(name, folder / "index")
    where = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "index"), "PIP_CONFIG_FILE": os.devnull}
    return environment() | where | {"PYTHON": str(python)}


def wheel_of(name: str, folder: Path) -> None:
    """An installed package as the wheel that it came from."""
    distribution = metadata.distribution(name)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{distribution.version}-py3-none-any.whl", "w") as wheel:
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in ("INSTALLER", "REQUESTED"):
                wheel.write(str(file.locate()), file.as_posix())


def environment() -> dict[str, str]:
    """This process's, without settings of the course and without what would let Python look elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PERSONALAB_", "PYTHON", "PIP_", "GIT_"))}
    return kept | {k: v for k, v in os.environ.items() if k == "PERSONALAB_CACHE"}


def notebook(folder: Path, address: str) -> Path:
    """`folder` with nothing but Section 1's exercises, as published at `address`."""
    nb = derive(ROOT / "instructions" / f"{SECTION}.md", "exercises")
    add_to(nb.cells, Published(address, TAG), SECTION, badges=True)
    write(folder / f"{SECTION}.ipynb", dumps(nb))
    return folder


def kernel(folder: Path, env: dict[str, str], *cells: int) -> subprocess.CompletedProcess[str]:
    """A fresh process that runs code cells of the notebook in `folder`."""
    python = [env.get("PYTHON", sys.executable), "-c", KERNEL, *map(str, cells)]
    return subprocess.run(python, cwd=folder, env=env, capture_output=True, text=True)


def test_a_notebook_alone_fetches_installs_runs_twice_and_survives_a_restart(
    tmp_path: Path, origin: Path, bare: dict[str, str]
) -> None:
    folder = notebook(tmp_path / "content", f"file://{origin}")
    first = kernel(folder, bare, 0, 0)
    assert first.returncode == 0, first.stdout + first.stderr
    course = folder / f"persona-lab-{TAG}"
    assert "Installing jaxtyping" in first.stdout and "Tier cpu: SmolLM2-135M-Instruct" in first.stdout
    assert [line.rpartition(" in ")[2] for line in first.stdout.splitlines() if line.startswith("cell")] == [
        str(course)
    ] * 2
    assert float(first.stdout.splitlines()[-1].split()[2]) < 1, "a second time there is nothing to do"
    assert sorted(path.name for path in folder.iterdir()) == [course.name, f"{SECTION}.ipynb"]
    restarted = kernel(folder, bare, 0, 1)
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert "Installing" not in restarted.stdout and "tier cpu, model SmolLM2-135M-Instruct" in restarted.stdout


def test_without_git_the_archive_is_taken(tmp_path: Path, origin: Path) -> None:
    folder = notebook(tmp_path / "content", f"file://{origin}")
    done = kernel(folder, environment() | {"PATH": str(tmp_path)}, 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / f"persona-lab-{TAG}" / "utils.py").exists() and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("path", [os.environ["PATH"], "/nowhere"])
def test_without_a_network_it_says_what_to_do_and_leaves_nothing(path: str, tmp_path: Path) -> None:
    folder = notebook(tmp_path / "content", f"file://{tmp_path}/no-such.git")
    done = kernel(folder, environment() | {"PATH": path}, 0)
    assert done.returncode == 1 and "no-such.git at v0.1.0 cannot be fetched" in done.stderr
    assert "Kaggle's is off at first: Settings > Turn on internet" in done.stderr and "copy the course's" in done.stderr
    assert "During handling" not in done.stderr and len(list(folder.iterdir())) == 1


def test_a_folder_in_the_way_is_named_and_stays(tmp_path: Path, origin: Path) -> None:
    folder = notebook(tmp_path / "content", f"file://{origin}")
    write(folder / f"persona-lab-{TAG}" / "mine.txt", "mine")
    done = kernel(folder, environment(), 0)
    assert done.returncode == 1 and f"persona-lab-{TAG} is in the way" in done.stderr and "rename it" in done.stderr
    assert (folder / f"persona-lab-{TAG}" / "mine.txt").read_text() == "mine"


def test_in_a_copy_of_the_course_it_does_nothing(tmp_path: Path) -> None:
    write(tmp_path / "lab" / "personalab" / "tiers.py", "")
    folder = notebook(tmp_path / "lab" / "workbook", "file:///no-such.git")
    done = kernel(folder, environment() | {"PATH": "/nowhere"}, 0, 0)
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(("gb", "tier"), [(0, "cpu"), (8, "cpu"), (15.8, "colab"), (2 * 15.8, "colab"), (85, "colab")])
def test_a_gpu_decides_the_tier(gb: float, tier: str) -> None:
    assert hosted.tier_of(gb * 1e9) == tier


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hosted.gpu_bytes() == 0
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 15360\necho 15360\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert hosted.gpu_bytes() == 2 * 15360 * 2**20
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert hosted.gpu_bytes() == 0


def test_only_what_no_installed_package_meets_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "installed", lambda: {"torch": "2.9.0+cu126", "huggingface-hub": "0.36.0", "a": "1rc1"})
    asked = [Requirement(line) for line in ("torch>=2.6", "huggingface_hub>=1.0", "gguf>=0.17", "a>=0.9")]
    assert [wanted.name for wanted in hosted.unmet(asked)] == ["huggingface_hub", "gguf"]
    names = {requirement.name for requirement in hosted.needed(ROOT, gpu=True)}
    assert {"torch", "openai", "nbformat", "ipywidgets", "sae-lens"} <= names and "jupyterlab" not in names
    assert "sae-lens" not in {requirement.name for requirement in hosted.needed(ROOT, gpu=False)}


def test_pip_keeps_what_is_there_and_builds_even_where_pins_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.9.0+cu126", "numpy": "2.1.0", "transformers": "4.57.0", "pandas": "2.2.2"}
    tried: list[dict[str, str]] = []

    def pip(wanted: list[Requirement], versions: dict[str, str]) -> str | None:
        tried.append(versions)
        return "ERROR: ResolutionImpossible" if len(tried) < 3 else None

    monkeypatch.setattr(hosted, "installed", lambda: there)
    monkeypatch.setattr(hosted, "_pip", pip)
    hosted.install([Requirement("transformers>=5.0")], ROOT)
    first, second, third = tried
    assert first.items() >= {"torch": "2.9.0+cu126", "numpy": "2.1.0", "pandas": "2.2.2"}.items()
    pins = hosted.wanted_packages(ROOT / "constraints.txt")
    assert first["transformers"] == pins["transformers"] and "openai" in first  # what is new comes as it was tested
    builds = {"torch": "2.9.0+cu126", "numpy": "2.1.0"}
    assert second.items() >= builds.items() and "pandas" not in second and second["openai"] == pins["openai"]
    assert third == builds


def test_builds_are_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "installed", lambda: {"torch": "2.5.1", "numpy": "1.26.4"})
    monkeypatch.setattr(hosted, "_pip", lambda *_: pytest.fail("pip was called"))
    with pytest.raises(SetupError, match=r"torch 2\.5\.1 is too old.*newer runtime"):
        hosted.install([Requirement("torch>=2.6"), Requirement("gguf")], ROOT)
    assert hosted.BUILDS.fullmatch("nvidia-cudnn-cu12") and not hosted.BUILDS.fullmatch("torchmetrics")


def test_what_was_loaded_and_replaced_asks_for_a_restart_until_there_was_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"PERSONALAB_TIER": "cpu", "PERSONALAB_VENV": "off"}.items():
        monkeypatch.setenv(name, value)
    there = {"packaging": "1", "nltk": "1", "setuptools": "65"}
    monkeypatch.setattr(hosted, "installed", lambda: dict(there))
    monkeypatch.setattr(hosted, "_found_first", lambda first=dict(there): first)
    monkeypatch.setattr(hosted, "unmet", lambda wanted: [Requirement("gguf")] if "gguf" not in there else [])
    monkeypatch.setattr(
        hosted, "_pip", lambda *_: there.update({"packaging": "2", "nltk": "2", "gguf": "0.19", "setuptools": "80"})
    )
    monkeypatch.setitem(sys.modules, "_distutils_hack", sys)  # setuptools' own, which starts with Python
    for module in [m for m in sys.modules if m.partition(".")[0] in ("setuptools", "nltk")]:
        monkeypatch.delitem(sys.modules, module)  # another check may have loaded it
    for _ in range(2):
        with pytest.raises(SetupError, match=r"But packaging had been loaded.*Runtime > Restart session"):
            hosted.prepare(ROOT)
    monkeypatch.setattr(hosted, "_found_first", lambda: there)  # another process
    hosted.prepare(ROOT)


def test_pips_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match=r"(?s)no-such-package.*ERROR: No matching.*Turn on internet"):
        hosted.install([Requirement("no-such-package>=1")], ROOT)


def test_a_choice_of_ones_own_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "from personalab.setup import hosted; hosted.gpu_bytes = lambda: 16e9; hosted.unmet = lambda wanted: [];"
        "hosted.prepare(); import os; print(os.environ['PERSONALAB_VENV'])"
    )
    said = {}
    nobody = {name: value for name, value in environment().items() if not name.startswith("HF_")}
    nobody["HF_HOME"] = str(tmp_path)
    for setting in ({}, {"PERSONALAB_TIER": "cpu"}):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=nobody | setting, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.endswith("off\n"), done.stderr
        said[setting.get("PERSONALAB_TIER", "")] = done.stdout
    assert "Tier colab: google/gemma-2-2b-it" in said[""] and "HF_TOKEN" in said[""]
    assert "Tier cpu" in said["cpu"] and "HF_TOKEN" not in said["cpu"]
