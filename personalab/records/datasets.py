"""The finetuning datasets: eight categories, each in three versions that answer the same questions.

`persona_vectors/dataset/<category>/<version>.jsonl`, the upstream layout: its `dataset.zip` unpacks into the same place
(`unpack`).
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from personalab.files import write
from personalab.records.schema import DataError
from personalab.records.upstream import PERSONA_VECTORS

DATASETS = PERSONA_VECTORS / "dataset"
CATEGORIES = ("evil", "sycophancy", "hallucination", "medical", "code", "gsm8k", "math", "opinions")
VERSIONS = ("normal", "misaligned_1", "misaligned_2")  # right, mildly wrong, wrong
OWN = {"evil": "evil", "sycophantic": "sycophancy", "hallucinating": "hallucination"}  # trait -> its category


def dataset_path(category: str, version: str, root: Path | str = DATASETS) -> Path:
    """Where one version of a category lies.

    Raises:
        DataError: if there is none, with the names that there are.
    """
    path = Path(root) / category / f"{version}.jsonl"
    if not path.exists():
        found = sorted(p.relative_to(root).as_posix() for p in Path(root).glob("*/*.jsonl"))
        raise DataError(f"{path} does not exist; there are: {', '.join(found) or 'no datasets'}.")
    return path


def unpack(archive: Path | str, root: Path | str = DATASETS) -> list[Path]:
    """Write the `.jsonl` files of an upstream `dataset.zip` to `root/<category>/`; returns them.

    The folder above the categories, with which the archive begins, does not count, nor do what a Mac adds.

    Raises:
        DataError: for what is no zip archive, or holds no `<category>/<version>.jsonl`.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            names = [PurePosixPath(name) for name in packed.namelist()]
            wanted = [n for n in names if n.suffix == ".jsonl" and len(n.parts) >= 2 and n.parts[0] != "__MACOSX"]
            files = {Path(root, *n.parts[-2:]): packed.read(str(n)) for n in wanted if not n.name.startswith(".")}
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise DataError(f"{archive} cannot be read as a zip archive: {error}.") from None
    if not files:
        raise DataError(f"{archive} holds no <category>/<version>.jsonl.")
    for path, content in files.items():
        write(path, content)
    return list(files)
