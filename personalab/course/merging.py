"""Three versions of a notebook into one, in which every word of a learner's stays.

`base` is the course's notebook as it was last time, `local` the learner's, `remote` the course's as it is now. nbdime
aligns the cells that have no name of their own and merges the order of the cells. What a cell holds is decided here
and never mixed: the learner's where they changed it, else the course's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from itertools import count
from typing import Any

import nbformat
from nbdime.diffing.generic import compare_strings_approximate
from nbdime.diffing.snakes import compute_snakes_multilevel
from nbdime.merging.decisions import apply_decisions
from nbdime.merging.generic import decide_merge
from nbdime.utils import Strategies
from nbformat import NotebookNode

from personalab.course.cells import OURS, digest, is_learners, name, origin, origins, stamp
from personalab.course.folded import folded_id

NEW = (
    "**The course has a new version of the cell below, in which you made changes.** Yours stays as it is. Take from "
    "the new one what you like, then delete this cell."
)
TYPED = "**You typed this in `exercises/`, and something else in the cell below.** Both are kept: delete one of them."

Compare = Callable[[NotebookNode, NotebookNode], bool]
Cells = dict[str, NotebookNode]  # by key, in the notebook's order: equal keys in two versions mean the same cell


class LostWordsError(RuntimeError):
    """A merge would have lost a learner's cell. It must not happen: nothing is written then."""


def merge(base: NotebookNode | None, local: NotebookNode, remote: NotebookNode, final: bool = False) -> NotebookNode:
    """What the workbook should hold: `local`, brought up to `remote`.

    Cells of `remote` that differ from their own hash are a learner's too (somebody worked in `exercises/`): they come
    in, beside what the learner has in `local`. What `base` held already has come in before; with `final`, because
    `remote` is about to be overwritten, it must still be there.

    Raises:
        LostWordsError: if a learner's cell of `local`, or with `final` of `remote`, is not in the result.
    """
    local = deepcopy(local)
    pending = {cell.metadata[OURS]["beside"] for cell in local.cells if _is_note(cell, local)}
    kept = [cell for cell in local.cells if not _is_note(cell, local)]
    merger = _Merger(base, kept, remote, pending, final)
    local.cells = merger.cells()
    _check_nothing_lost(merger.learners(), local)
    return local


class _Merger:
    """The decisions for one notebook, cell by cell."""

    def __init__(
        self, base: NotebookNode | None, local: list[NotebookNode], remote: NotebookNode, pending: set[str], final: bool
    ) -> None:
        self.pending, self.final = pending, final
        similar = [_similar, _equal]
        self.known = origins(remote) | (origins(base) if base else set())
        self.remote: Cells = {f"remote {i}": cell for i, cell in enumerate(remote.cells)}
        self.base = rekeyed(base.cells if base else [], self.remote, "base", similar)
        own = rekeyed(local, self.base, "local", similar, by_id=True)
        new = {key: cell for key, cell in self.remote.items() if key not in self.base}
        # Not in the base, so it came in between (an update that was cut short), or the base is lost.
        rest = {key: cell for key, cell in own.items() if key not in self.base}
        fresh = rekeyed([*rest.values()], new, "new", [_equal] if base else similar)
        renamed = dict(zip(rest, fresh, strict=True))
        self.local: Cells = {renamed.get(key, key): cell for key, cell in own.items()}
        if base is None:  # unknown: then nothing counts as deleted by anybody
            self.base = {key: cell for key, cell in self.local.items() if key in self.remote and origin(cell)}
        self.words = {digest(cell.source) for key, cell in self.local.items() if self.mine(cell, key)}
        self.notes = "\n".join(cell.source for cell in local if cell.source.startswith(TYPED))

    def mine(self, cell: NotebookNode, key: str = "") -> bool:
        """Whether its words are a learner's; the base stands in for a hash that some editor has dropped."""
        if origin(cell) is None and key in self.base and origin(self.base[key]):
            return digest(cell.source) != origin(self.base[key])
        return is_learners(cell, self.known)

    def learners(self) -> list[NotebookNode]:
        """The cells whose words must be in the result."""
        typed = [cell for cell in self.remote.values() if self.final and self.mine(cell)]
        return [cell for key, cell in self.local.items() if self.mine(cell, key)] + typed

    def cells(self) -> list[NotebookNode]:
        """The merged notebook's, each with an id of its own; the course's cells keep theirs."""
        merged, taken = [], {cell.id for cell in self.remote.values()}
        for key in self.order():
            for cell in (cells := self.settle(key)):
                if key in self.remote and cell is cells[-1]:
                    cell.id = self.remote[key].id
                elif cell.id in taken:
                    cell.id = next(i for n in count(2) if (i := f"{cell.id[:60]}-{n}") not in taken)
                taken.add(cell.id)
                merged.append(cell)
        return merged

    def order(self) -> list[str]:
        """The keys of the merged notebook; what one side deleted is gone, unless a learner changed it."""
        base, local, remote = ([*version] for version in (self.base, self.local, self.remote))
        kept = {key for key in local if key not in self.remote and self.mine(self.local[key], key)}
        kept |= {key for key in remote if key not in self.local and self.mine(self.remote[key])}
        return merged_order([key for key in base if key not in kept], local, remote)

    def settle(self, key: str) -> list[NotebookNode]:
        """The cells to write for one key: one, two where versions stand side by side, or none."""
        own, new = self.local.get(key), self.remote.get(key)
        if new is None:
            return [own] if own else []
        if self.mine(new):
            return self._settle_typed(key, own, new)
        if own is None:
            return [new]
        if not self.mine(own, key):
            return [_updated(own, new)]
        kept = deepcopy(new) | {"source": own.source, "metadata": own.metadata | new.metadata}
        if own.cell_type == new.cell_type == "code":
            kept |= {"outputs": own.outputs, "execution_count": own.execution_count}
        elif "attachments" in own and new.cell_type == "markdown":  # pictures that were pasted in
            kept["attachments"] = own.attachments
        before = origin(own) or (origin(self.base[key]) if key in self.base else None)
        changed = before != origin(new) or own.id in self.pending
        beside = changed and digest(own.source) != digest(new.source)
        return [*([_note(NEW, new, new.id)] if beside else []), nbformat.from_dict(kept)]

    def _settle_typed(self, key: str, own: NotebookNode | None, new: NotebookNode) -> list[NotebookNode]:
        """For a cell in `exercises/` that a learner changed."""
        seen = key in self.base and digest(self.base[key].source) == digest(new.source) and not self.final
        if seen or digest(new.source) in self.words or new.source in self.notes:
            return [own] if own else []
        if own is None or not self.mine(own, key):
            return [new]
        return [_note(TYPED, new), own]


def rekeyed(
    cells: Sequence[NotebookNode], other: Cells, prefix: str, compares: Sequence[Compare], by_id: bool = False
) -> Cells:
    """`cells` under the keys of their counterparts in `other`, or under keys of their own.

    Counterparts have the same id (only with `by_id`, for versions of one file: an author's ids move when cells come
    in between), else the same name (what is folded away has that of its cell), else the same hash, else nbdime aligns
    them, by the last of `compares` first.
    Where all ids are gone, cells between the same neighbours are counterparts too.
    """
    found: dict[int, str] = {}
    stripped = False
    marks: list[Callable[[NotebookNode], Hashable]] = [name, folded_id, origin]
    if by_id:
        marks.insert(0, lambda cell: cell.get("id"))
    for mark in marks:
        free = _grouped([(key, cell) for key, cell in other.items() if key not in found.values()], mark)
        here = _grouped([(i, cell) for i, cell in enumerate(cells) if i not in found], mark)
        found |= {i: key for value in here for i, key in zip(here[value], free[value], strict=False)}
        stripped = stripped or (by_id and mark is marks[0] and not found)
    keys = [key for key in other if key not in found.values()]
    rest = [i for i in range(len(cells)) if i not in found]
    levels = [_same_type, *compares] if stripped else compares
    for at, to, n in compute_snakes_multilevel([cells[i] for i in rest], [other[key] for key in keys], levels):
        found |= {rest[at + k]: keys[to + k] for k in range(n)}
    return {found.get(i, f"{prefix} {i}"): cell for i, cell in enumerate(cells)}


def _grouped(
    cells: Sequence[tuple[Hashable, NotebookNode]], mark: Callable[[NotebookNode], Hashable]
) -> defaultdict[Hashable, list[Any]]:
    groups: defaultdict[Hashable, list[Any]] = defaultdict(list)
    for key, cell in cells:
        if (value := mark(cell)) is not None:
            groups[value].append(key)
    return groups


def _same_type(a: NotebookNode, b: NotebookNode) -> bool:
    return a.cell_type == b.cell_type


def _similar(a: NotebookNode, b: NotebookNode) -> bool:
    return a.cell_type == b.cell_type and compare_strings_approximate(a.source, b.source)


def _equal(a: NotebookNode, b: NotebookNode) -> bool:
    return a.cell_type == b.cell_type and digest(a.source) == digest(b.source)


def merged_order(base: Sequence[str], local: Sequence[str], remote: Sequence[str]) -> list[str]:
    """Three lists of keys merged by nbdime; where both sides insert at one place, first the local ones."""
    start = "start"  # nbdime does not merge empty lists
    versions = [[start, *keys] for keys in (base, local, remote)]
    merged = apply_decisions(versions[0], decide_merge(*versions, Strategies({"": "union", "/": "union"})))
    return [key for key in dict.fromkeys(merged) if key != start]


def _updated(own: NotebookNode, new: NotebookNode) -> NotebookNode:
    """The course's cell, with the outputs of the learner's run while they belong to the same source."""
    cell = deepcopy(new)
    cell.metadata = nbformat.from_dict(own.metadata | new.metadata)
    if own.cell_type == new.cell_type == "code" and own.source == new.source:
        cell.outputs, cell.execution_count = own.outputs, own.execution_count
    return cell


def _note(text: str, cell: NotebookNode, beside: str | None = None) -> NotebookNode:
    """A markdown cell that shows `cell`: code in a fence, so that it overrides nothing.

    With `beside`, the id of the cell below, it is ours to renew; without, it holds a learner's words.
    """
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", cell.source)), default=0))
    shown = f"{ticks}python\n{cell.source}\n{ticks}" if cell.cell_type == "code" else cell.source
    note = nbformat.v4.new_markdown_cell(f"{text}\n\n{shown}")
    if "attachments" in cell:
        note.attachments = cell.attachments
    if beside:
        note.id = f"new-{beside}"[:64]
        stamp(note)
        note.metadata[OURS]["beside"] = beside
    return note


def _is_note(cell: NotebookNode, nb: NotebookNode) -> bool:
    """Whether it is a note of ours, unchanged, whose cell is still there."""
    beside = (cell.metadata.get(OURS) or {}).get("beside")
    return bool(beside) and not is_learners(cell) and any(other.get("id") == beside for other in nb.cells)


def _check_nothing_lost(cells: Sequence[NotebookNode], result: NotebookNode) -> None:
    whole = "\n".join(cell.source for cell in result.cells)
    if lost := [cell for cell in cells if cell.source not in whole]:
        raise LostWordsError(
            f"The merge would lose {len(lost)} of your cells, the first of them:\n{lost[0].source}\n"
            "Nothing was written. Please report this; until then, work goes on in the notebook as it is."
        )
