"""Steering, capping and ablation: what is done to the output of a decoder block, at every position.

    with applied(model, [Steer(17, vector, 2.0), Cap(20, direction, 1.5)]):
        model.generate(...)

Hooks are registered in front of all others, so that whoever reads hidden states (transformers' own capturing hooks
included, which stay on a model for good) reads them after the intervention. Nothing is changed in place, so gradients
flow through. Several interventions on one block act in the order given; those of an inner `with` before an outer one's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from personalab.lm.hooks import Hidden, hooked, is_compiled
from personalab.lm.models import decoder_blocks


@runtime_checkable
class Intervention(Protocol):
    """A change of one block's output."""

    @property
    def block(self) -> int:
        """Index of the decoder block whose output changes."""

    def __call__(self, hidden: Hidden) -> Hidden:
        """The changed output, of the same dtype, on the same device."""

    def for_rows(self, rows: Sequence[int]) -> Intervention:
        """What it is for a batch that holds only these rows of the whole."""


@dataclass(frozen=True, eq=False)
class Steer:
    """`h <- h + coefficient * vector`.

    Attributes:
        coefficient: one number for all rows, or a tensor with one for each: a whole sweep decodes as one batch.
            At 0 the output is exactly the input.

    Raises:
        ValueError: for NaN or infinity.

    >>> hidden, vector = torch.zeros(2, 1, 3), torch.tensor([1.0, 0.0, 0.0])
    >>> Steer(0, vector, torch.tensor([0.0, 2.0]))(hidden)[:, 0].tolist()
    [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
    """

    block: int
    vector: Float[Tensor, "d"]
    coefficient: float | Float[Tensor, "rows"] = 1.0

    def __post_init__(self) -> None:
        _check_finite(self, "vector", "coefficient")

    def __call__(self, hidden: Hidden) -> Hidden:
        coefficient = torch.as_tensor(self.coefficient, dtype=torch.float32).to(hidden.device)
        if coefficient.ndim and len(coefficient) != len(hidden):
            raise ValueError(f"Steer has {len(coefficient)} coefficients for a batch of {len(hidden)} rows.")
        push = coefficient.reshape(-1, 1, 1) * _like(self.vector, hidden)  # (1 or rows, 1, d)
        return hidden + push.to(hidden.dtype)

    def for_rows(self, rows: Sequence[int]) -> Steer:
        """With these rows' coefficients only."""
        return replace(self, coefficient=self.coefficient[list(rows)]) if per_row(self) else self  # type: ignore[index]


@dataclass(frozen=True, eq=False)
class Cap:
    """`h <- h - max(<h, v> - threshold, 0) v` with `v` the unit vector along `vector`: a ceiling on the projection.

    Positions below the threshold are left exactly as they are. With the axis pointing to the Assistant, capping along
    *minus* the axis keeps a model from drifting away from it (Lu et al. 2026, where it is a floor along plus the axis).

    Attributes:
        threshold: in units of the residual stream, as the projection on the unit vector.

    Raises:
        ValueError: for NaN or infinity.

    >>> hidden = torch.tensor([[[5.0, 1.0], [-5.0, 1.0]]])
    >>> Cap(0, torch.tensor([10.0, 0.0]), 2.0)(hidden)[0].tolist()  # the vector's length does not count
    [[2.0, 1.0], [-5.0, 1.0]]
    """

    block: int
    vector: Float[Tensor, "d"]
    threshold: float

    def __post_init__(self) -> None:
        _check_finite(self, "vector", "threshold")

    def __call__(self, hidden: Hidden) -> Hidden:
        v = F.normalize(_like(self.vector, hidden), dim=0)
        excess = (hidden.float() @ v - self.threshold).clamp_min(0)  # (rows, tokens)
        return hidden - (excess[..., None] * v).to(hidden.dtype)

    def for_rows(self, rows: Sequence[int]) -> Cap:
        """Itself: all rows are treated alike."""
        return self


@dataclass(frozen=True, eq=False)
class Ablate:
    """`h <- h - <h, v> v` with `v` the unit vector along `vector`: nothing is left along it.

    Raises:
        ValueError: for NaN or infinity.
    """

    block: int
    vector: Float[Tensor, "d"]

    def __post_init__(self) -> None:
        _check_finite(self, "vector")

    def __call__(self, hidden: Hidden) -> Hidden:
        v = F.normalize(_like(self.vector, hidden), dim=0)
        return hidden - ((hidden.float() @ v)[..., None] * v).to(hidden.dtype)

    def for_rows(self, rows: Sequence[int]) -> Ablate:
        """Itself: all rows are treated alike."""
        return self


@dataclass(frozen=True, eq=False)
class Through:
    """`h <- change(h)`: any function of a block's output, the same for all rows. Gradients flow if it lets them.

    >>> Through(0, lambda hidden: 2 * hidden)(torch.ones(1, 1, 2)).tolist()
    [[[2.0, 2.0]]]
    """

    block: int
    change: Callable[[Hidden], Hidden]

    def __call__(self, hidden: Hidden) -> Hidden:
        return self.change(hidden)

    def for_rows(self, rows: Sequence[int]) -> Through:
        """Itself: all rows are treated alike."""
        return self


def per_row(intervention: Intervention) -> bool:
    """Whether it treats rows of a batch differently."""
    return isinstance(intervention, Steer) and torch.as_tensor(intervention.coefficient).ndim > 0


def treatments_of(interventions: Sequence[Intervention], n: int) -> list[tuple[float, ...]]:
    """What is done to each of `n` rows and not to all of them: its coefficients."""
    coefficients = [i.coefficient.tolist() for i in interventions if per_row(i)]  # type: ignore[attr-defined]
    return [*zip(*coefficients, strict=True)] if coefficients else [()] * n


def _check_finite(intervention: Intervention, *fields: str) -> None:
    for field in fields:
        if not torch.isfinite(torch.as_tensor(getattr(intervention, field))).all():
            raise ValueError(
                f"{type(intervention).__name__} of block {intervention.block}: its {field} holds NaN or infinity, "
                "which would make every answer NaN; find where it was made."
            )


def _like(vector: Float[Tensor, "d"], hidden: Hidden) -> Float[Tensor, "d"]:
    """In float32 on the device of `hidden`; rounded first, since not every device has float64."""
    if vector.ndim != 1 or len(vector) != hidden.shape[-1]:
        raise ValueError(
            f"A vector of shape {tuple(vector.shape)} does not fit a residual stream of {hidden.shape[-1]}."
        )
    return vector.float().to(hidden.device)


@contextmanager
def applied(model: nn.Module, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Interventions are in force inside the `with` block, and gone after it, also when an error ends it.

    A model that went through `torch.compile` runs uncompiled in it: compiled code would pass the hooks by.

    Raises:
        ValueError: for a block that does not exist, or (in the forward pass) a vector of another width.
        RuntimeError: at the end of the block, if the model ran and a block with an intervention did not.
    """
    blocks = decoder_blocks(model)
    if bad := sorted({i.block for i in interventions if not 0 <= i.block < len(blocks)}):
        raise ValueError(f"blocks {bad} do not exist: this model has blocks 0 to {len(blocks) - 1}.")
    wanted = dict.fromkeys(i.block for i in interventions)
    runs: Counter[int] = Counter()  # of the blocks, and of the whole model under -1
    with ExitStack() as stack:
        if wanted:
            handle = model.register_forward_hook(lambda *_: runs.update([-1]))
            stack.callback(handle.remove)
            if is_compiled(model):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        for index in wanted:
            chain = [i for i in interventions if i.block == index]
            stack.enter_context(hooked(blocks[index], partial(_changed, chain, runs), first=True))
        yield
    if runs[-1] and (idle := [index for index in wanted if not runs[index]]):
        raise RuntimeError(
            f"The interventions on blocks {idle} never acted: the model ran without calling these blocks (as code "
            "captured in a graph does). Load it anew and leave it uncompiled."
        )


def _changed(chain: Sequence[Intervention], runs: Counter[int], hidden: Hidden) -> Hidden:
    runs[chain[0].block] += 1
    for intervention in chain:
        hidden = intervention(hidden)
    return hidden
