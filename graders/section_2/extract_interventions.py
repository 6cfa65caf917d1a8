"""Section 2: the capping configuration."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graders.harness import Case, Raised, called_with, check, difference, grader, same
from graders.harness.cases import attempted

_CONFIG: dict[str, Any] = {
    "vectors": {  # names and order say nothing about layers
        "layer_5": {"vector": torch.tensor([0.0, 3.0, 1.0]), "layer": 7},
        "layer_7": {"vector": torch.tensor([1.0, -2.0, 0.5]), "layer": 2},
        "extra": {"vector": torch.tensor([5.0, 5.0, 5.0]), "layer": 9},
        "layer_2": {"vector": torch.tensor([-4.0, 0.0, 0.5]), "layer": 5},
        "other_7": {"vector": torch.tensor([0.5, 1.0, -1.0]), "layer": 2},
    },
    "experiments": [
        {"id": "layers_2:7-p0.25", "interventions": [{"vector": "extra", "cap": 9.0}]},
        {
            "id": "layers_2:7-p0.2",
            "interventions": [
                {"vector": "layer_2", "cap": 1.5},
                {"vector": "extra", "coefficient": 2.0},
                {"vector": "layer_7", "cap": 0.0},
                {"vector": "layer_5", "cap": -3.25},
            ],
        },
        {"id": "steering", "interventions": [{"vector": "extra", "coefficient": 1.0}, {"vector": "layer_5", "cap": 4}]},
        {
            "id": "several-at-a-block",
            "interventions": [
                {"vector": "layer_7", "cap": 0.5},
                {"vector": "other_7", "cap": -1.0},
                {"vector": "layer_7", "cap": 2.0},
            ],
        },
    ],
}
_RIGHT: dict[str, list[tuple[str, float]]] = {
    "layers_2:7-p0.2": [("layer_2", 1.5), ("layer_7", 0.0), ("layer_5", -3.25)],
    "layers_2:7-p0.25": [("extra", 9.0)],
    "steering": [("layer_5", 4)],
    "several-at-a-block": [("layer_7", 0.5), ("other_7", -1.0), ("layer_7", 2.0)],
}
_ROWS = (list, tuple, np.ndarray, Tensor)


@grader
def test_extract_interventions() -> Iterator[Case]:
    """Capped interventions of one experiment, in its order; a clear error for one that does not exist."""
    for experiment in _RIGHT:
        yield Case(
            f"extract_interventions(config, {experiment!r})",
            called_with(_CONFIG, experiment),
            partial(_check_found, experiment),
            'An intervention need not have a "cap": those without steer, and are left out.',
        )
    for name in ("layers_2:7", "no_such_experiment"):
        observe = partial(attempted, called_with(_CONFIG, name))
        yield Case(f"Unknown id {name!r}", observe, partial(_check_unknown, name))


def _check_found(experiment: str, observed: tuple[Any, tuple[dict[str, Any], str]]) -> None:
    found, (config, _) = observed
    check(
        isinstance(found, tuple | list) and len(found) == 3 and all(isinstance(x, _ROWS) for x in found),
        f"expected three lists (vectors, cap_thresholds, layer_indices), found {found!r:.300}.",
    )
    _check_three(experiment, *map(list, found))
    unchanged = "expected the configuration as it was, found it changed. Do not pop or assign in it."
    check(same(config, _CONFIG), unchanged)


def _check_three(experiment: str, vectors: list[Any], caps: list[Any], layers: list[Any]) -> None:
    right = _RIGHT[experiment]
    entries = [(name, _CONFIG["vectors"][name]) for name, _ in right]
    expected = {"caps": [cap for _, cap in right], "layers": [entry["layer"] for _, entry in entries]}
    shortest, *_, longest = sorted(map(len, (vectors, caps, layers)))
    guess = "Order them as the experiment lists its interventions."
    if any(caps == [cap for _, cap in other] for name, other in _RIGHT.items() if name != experiment):
        guess = "These belong to another experiment: compare the id with ==, as one id may begin another."
    elif longest > len(right):
        guess = 'Leave out interventions that have no "cap": they steer, they do not cap.'
    elif len({*expected["layers"]}) < len(right) > shortest:
        guess = "Keep all of them: a block may have several caps, and a vector too, so no dict by block or by vector."
    elif 0.0 in expected["caps"] and shortest < len(right):
        guess = 'A cap of 0.0 is a cap: ask `"cap" in intervention`, not whether it is true.'
    index = 'A block\'s index is the entry\'s "layer": config["vectors"][name]["layer"].'
    for part, found, cure in (("caps", caps, guess), ("layers", layers, index)):
        check(found == expected[part], f"expected the {part} {expected[part]}, found {found!r:.200}. {cure}")
    check(len(vectors) == len(right), f"expected {len(right)} vectors, found {len(vectors)}.")
    for (name, entry), vector in zip(entries, vectors, strict=True):
        check(
            isinstance(vector, Tensor) and vector.shape == entry["vector"].shape,
            f'expected the tensor of {name!r}, found {vector!r}. Take its entry\'s "vector".',
        )
        check(
            torch.allclose(vector.float(), entry["vector"]),
            f"expected the vector of {name!r} as it is, in the interventions' order (ActivationCapper normalises): "
            f"{difference(entry['vector'].tolist(), vector.tolist())}.",
        )


def _check_unknown(name: str, observed: Any) -> None:
    found = observed if isinstance(observed, Raised) else observed[0]
    why = "Name the id in an error: raise ValueError(f'No experiment {experiment_id!r}: ...')."
    check(isinstance(found, Raised), f"expected an error that names it, found the result {found!r}. {why}")
    check(name in found.text, f"expected an error that names it, found {found}. {why}")
