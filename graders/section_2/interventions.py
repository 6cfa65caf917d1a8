"""Section 2, the capping configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graders.harness.expect import check, grader
from graders.harness.hooked import running

_CONFIG: dict[str, Any] = {
    "vectors": {  # names and order say nothing about layers
        "layer_5": {"vector": torch.tensor([0.0, 3.0, 1.0]), "layer": 7},
        "layer_7": {"vector": torch.tensor([1.0, -2.0, 0.5]), "layer": 2},
        "extra": {"vector": torch.tensor([5.0, 5.0, 5.0]), "layer": 9},
        "layer_2": {"vector": torch.tensor([-4.0, 0.0, 0.5]), "layer": 5},
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
    ],
}
_RIGHT: dict[str, list[tuple[str, float]]] = {
    "layers_2:7-p0.2": [("layer_2", 1.5), ("layer_7", 0.0), ("layer_5", -3.25)],
    "layers_2:7-p0.25": [("extra", 9.0)],
    "steering": [("layer_5", 4)],
}


@grader
def test_extract_interventions(extract_interventions: Callable[..., Any]) -> None:
    """Capped interventions of one experiment, in its order; a clear error for one that does not exist."""
    for experiment, right in _RIGHT.items():
        config = copy.deepcopy(_CONFIG)
        with running(f"extract_interventions(config, {experiment!r})"):
            found = extract_interventions(config, experiment)
        check(
            isinstance(found, tuple | list) and len(found) == 3 and all(isinstance(x, list | tuple) for x in found),
            f"{experiment!r}: expected three lists (vectors, cap_thresholds, layer_indices), found {found!r}.",
        )
        _check_three(experiment, right, *found)
        check(
            repr(config) == repr(_CONFIG),
            f"{experiment!r}: expected the configuration as it was, found it changed. Do not pop or assign in it.",
        )
    _check_unknown(extract_interventions)


def _check_three(experiment: str, right: list[tuple[str, float]], vectors: Any, caps: Any, layers: Any) -> None:
    entries = [_CONFIG["vectors"][name] for name, _ in right]
    expected_caps, expected_layers = [cap for _, cap in right], [e["layer"] for e in entries]
    lengths = (len(vectors), len(caps), len(layers))
    guess = "Order them as the experiment lists its interventions."
    if any(list(caps) == [cap for _, cap in other] for name, other in _RIGHT.items() if name != experiment):
        guess = "These belong to another experiment: compare the id with ==, as one id may begin another."
    elif max(lengths) > len(right):
        guess = 'Leave out interventions that have no "cap": they steer, they do not cap.'
    elif 0.0 in expected_caps and min(lengths) < len(right):
        guess = 'A cap of 0.0 is a cap: ask `"cap" in intervention`, not whether it is true.'
    check(
        list(caps) == expected_caps, f"{experiment!r}: expected the caps {expected_caps}, found {list(caps)}. {guess}"
    )
    check(
        list(layers) == expected_layers,
        f"{experiment!r}: expected the layers {expected_layers}, found {list(layers)}. A block's index is the entry's "
        '"layer": config["vectors"][name]["layer"].',
    )
    check(len(vectors) == len(right), f"{experiment!r}: expected {len(right)} vectors, found {len(vectors)}.")
    for (name, _), entry, vector in zip(right, entries, vectors, strict=True):
        check(
            isinstance(vector, Tensor) and vector.shape == entry["vector"].shape,
            f'{experiment!r}: expected the tensor of {name!r}, found {vector!r}. Take its entry\'s "vector".',
        )
        check(
            torch.allclose(vector.float(), entry["vector"]),
            f"{experiment!r}: expected the vector of {name!r}, {entry['vector'].tolist()}, found {vector.tolist()}. "
            "Take it as it is, in the interventions' order: ActivationCapper normalises.",
        )


def _check_unknown(function: Callable[..., Any]) -> None:
    for name in ("layers_2:7", "no_such_experiment"):
        why = f"Name the id in a ValueError: raise ValueError(f'No experiment {name!r}: ...')."
        try:
            found = function(copy.deepcopy(_CONFIG), name)
        except NotImplementedError:
            raise
        except (ValueError, KeyError) as error:
            check(name in str(error), f"Unknown id {name!r}: expected an error that names it, found {error!r}. {why}")
        except Exception as error:
            raise AssertionError(f"Unknown id {name!r}: expected a ValueError, found {error!r}. {why}") from error
        else:
            raise AssertionError(f"Unknown id {name!r}: expected a ValueError, found the result {found!r}. {why}")
