"""What an embedded model's reply depends on besides the request: code, judge, packages and dtype, found by imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from personalab import tiers
from personalab.setup.machine import dtype_name, hub_device

# What the worker calls; whatever these import can change a reply, and so can this folder, which carries it.
ENTRIES = {tiers.EMBEDDED_MODEL: "personalab.lm.generation", tiers.EMBEDDED_JUDGE: "personalab.judging.backend"}


def engine(model: str) -> str:
    """Changes with everything that turns requests into text, so that no stale reply is served from the cache."""
    entry = ENTRIES.get(model, ENTRIES[tiers.EMBEDDED_MODEL])  # a model of the user's own is run by the same code
    dtype = dtype_name(tiers.current_tier().dtype, "cpu" if model in ENTRIES else hub_device())
    day = "" if model in ENTRIES else os.environ.get("PERSONALAB_DATE", "")  # which chat templates may print
    return f"{_source_hash(entry)}-{dtype}{_version_of(model)}{day and '-'}{day}"


def _version_of(model: str) -> str:
    """What changes with the weights behind a name: a folder's files, or the revision that the hub's cache holds."""
    if model in ENTRIES:
        return ""  # their weights are pinned by hash
    if (folder := Path(model)).is_dir():
        found = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
        return "-" + hashlib.sha256(repr(found).encode()).hexdigest()
    from huggingface_hub import try_to_load_from_cache  # a quarter of a second, for models of the hub alone

    config = try_to_load_from_cache(model, "config.json")  # …/snapshots/<revision>/config.json
    return f"-{Path(config).parent.name}" if isinstance(config, str) else ""


@functools.cache
def _source_hash(entry: str) -> str:
    return source_hash(entry, Path(__file__).resolve().parents[2])


def source_hash(entry: str, root: Path) -> str:
    """Hash of all modules of ours, under `root`, that `entry` imports, of their data, and of the packages' versions."""
    modules, packages = reachable(entry, root)
    files = {*modules, *(root / "personalab" / "endpoint").glob("*.py"), *_data(modules)}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(repr([(name, _version(name)) for name in sorted(packages)]).encode())
    return digest.hexdigest()


def reachable(entry: str, root: Path) -> tuple[set[Path], set[str]]:
    """Files of our modules that `entry` imports, directly or not, and the names of other packages.

    Every import statement counts, also one inside a function.
    """
    modules: set[Path] = set()
    packages: set[str] = set()
    todo = [entry]
    while todo:
        name = todo.pop()
        path = _file(root, name)
        if path is None:
            packages.add(name.partition(".")[0])
        elif path not in modules:
            modules.add(path)
            todo += [*_imports(path.read_text(encoding="utf-8")), *_parents(name)]
    return modules, packages - set(sys.stdlib_module_names) - {__name__.partition(".")[0]}


def _version(package: str) -> list[str]:
    """Version of what is imported under this name; looking for packages that are named otherwise takes a second."""
    try:
        return [metadata.version(package)]
    except metadata.PackageNotFoundError:
        return [metadata.version(name) for name in metadata.packages_distributions().get(package, [])]


def _file(root: Path, name: str) -> Path | None:
    """The module's file, if it is one of ours. An attribute that `from module import name` may mean has none."""
    place = root.joinpath(*name.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()), None)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@functools.cache
def _imports(source: str) -> tuple[str, ...]:
    """Names of modules, and of what may be modules, in every import statement. We write none that is relative."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _data(modules: set[Path]) -> set[Path]:
    """Every file directly in a folder `data` beside one of the modules."""
    folders = {path.parent / "data" for path in modules}
    return {file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()}
