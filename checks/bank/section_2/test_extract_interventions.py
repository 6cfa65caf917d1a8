import numpy as np
import pandas as pd
import torch

from checks.bank import right, wrong


def capped(capping_config, experiment_id):
    """Each capped intervention of the experiment with its vector's entry."""
    for experiment in capping_config["experiments"]:
        if experiment["id"] == experiment_id:
            return [
                (capping_config["vectors"][i["vector"]], i["cap"]) for i in experiment["interventions"] if "cap" in i
            ]
    raise ValueError(f"No experiment {experiment_id!r}.")


def three(pairs):
    return [e["vector"] for e, _ in pairs], [cap for _, cap in pairs], [e["layer"] for e, _ in pairs]


@right
def with_lists(capping_config, experiment_id):
    return three(capped(capping_config, experiment_id))


@right
def by_key(capping_config, experiment_id):
    """A dict by id, so that an unknown id is a KeyError that names it; float32 copies of the vectors; tuples."""
    experiment = {e["id"]: e for e in capping_config["experiments"]}[experiment_id]
    rows = []
    for intervention in experiment["interventions"]:
        cap = intervention.get("cap")
        if cap is not None:
            entry = capping_config["vectors"][intervention["vector"]]
            rows.append((entry["vector"].float().clone(), float(cap), int(entry["layer"])))
    return tuple(zip(*rows, strict=True))


@wrong("Leave out interventions")
def uncapped_counted(capping_config, experiment_id):
    for experiment in capping_config["experiments"]:
        if experiment["id"] == experiment_id:
            entries = [capping_config["vectors"][i["vector"]] for i in experiment["interventions"]]
            caps = [i.get("cap", 0.0) for i in experiment["interventions"]]
            return [e["vector"] for e in entries], caps, [e["layer"] for e in entries]
    raise ValueError(experiment_id)


@wrong("found KeyError")
def uncapped_not_foreseen(capping_config, experiment_id):
    (experiment,) = [e for e in capping_config["experiments"] if e["id"] == experiment_id]
    return [], [i["cap"] for i in experiment["interventions"]], []


@wrong("A cap of 0.0 is a cap")
def zero_cap_lost(capping_config, experiment_id):
    return three([(e, cap) for e, cap in capped(capping_config, experiment_id) if cap])


@wrong("another experiment: compare the id with ==")
def part_of_an_id(capping_config, experiment_id):
    for experiment in capping_config["experiments"]:
        if experiment_id in experiment["id"]:
            return with_lists(capping_config, experiment["id"])
    raise ValueError(experiment_id)


@wrong("expected the caps .* as the experiment lists")
def ordered_by_layer(capping_config, experiment_id):
    return three(sorted(capped(capping_config, experiment_id), key=lambda pair: pair[0]["layer"]))


@wrong("expected the layers .* A block's index")
def layers_counted(capping_config, experiment_id):
    vectors, caps, _ = with_lists(capping_config, experiment_id)
    return vectors, caps, list(range(len(caps)))


@wrong("expected the layers .* A block's index")
def layers_from_names(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    names = {e["layer"]: name for name, e in capping_config["vectors"].items()}
    return vectors, caps, [int(names[layer].rpartition("_")[2]) if "_" in names[layer] else layer for layer in layers]


@wrong("expected the vector of .* as it is")
def normalised(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    return [v / v.norm() for v in vectors], caps, layers


@wrong("expected the vector of .* as it is")
def vectors_in_the_order_of_the_file(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    mine = {id(v) for v in vectors}
    return [e["vector"] for e in capping_config["vectors"].values() if id(e["vector"]) in mine], caps, layers


@wrong("expected the tensor of")
def whole_entries(capping_config, experiment_id):
    pairs = capped(capping_config, experiment_id)
    return [e for e, _ in pairs], *three(pairs)[1:]


@wrong("expected 3 vectors, found 5")
def every_vector(capping_config, experiment_id):
    _, caps, layers = with_lists(capping_config, experiment_id)
    return [e["vector"] for e in capping_config["vectors"].values()], caps, layers


@wrong("expected three lists")
def a_dict(capping_config, experiment_id):
    return dict(zip(("vectors", "caps", "layers"), with_lists(capping_config, experiment_id), strict=True))


@wrong("found it changed")
def changes_the_configuration(capping_config, experiment_id):
    found = with_lists(capping_config, experiment_id)
    for experiment in capping_config["experiments"]:
        experiment["interventions"] = [i for i in experiment["interventions"] if "cap" in i]
    return found


@wrong("Unknown id .*found the result")
def unknown_is_empty(capping_config, experiment_id):
    try:
        return with_lists(capping_config, experiment_id)
    except ValueError:
        return [], [], []


@wrong("Unknown id .*found StopIteration")
def unknown_is_a_stop(capping_config, experiment_id):
    next(e for e in capping_config["experiments"] if e["id"] == experiment_id)
    return with_lists(capping_config, experiment_id)


@wrong("Unknown id .*names it")
def unknown_is_not_named(capping_config, experiment_id):
    if experiment_id not in [e["id"] for e in capping_config["experiments"]]:
        raise ValueError("no such experiment")
    return with_lists(capping_config, experiment_id)


@right
def with_pandas(capping_config, experiment_id):
    """A table; an unknown id is a RuntimeError that names it; arrays of numpy."""
    experiments = pd.DataFrame(capping_config["experiments"]).set_index("id")
    if experiment_id not in experiments.index:
        raise RuntimeError(f"{experiment_id!r} is no experiment: {list(experiments.index)}")
    table = pd.DataFrame(experiments.interventions[experiment_id])
    table = table[table["cap"].notna()]
    entries = [capping_config["vectors"][name] for name in table["vector"]]
    return [e["vector"] for e in entries], table["cap"].to_numpy(), np.array([e["layer"] for e in entries])


@right
def stacked(capping_config, experiment_id):
    """Vectors as the rows of one tensor; asserts that there is such an experiment."""
    pairs = {e["id"]: e["interventions"] for e in capping_config["experiments"]}
    assert experiment_id in pairs, f"unknown experiment: {experiment_id}"
    kept = [i for i in pairs[experiment_id] if "cap" in i]
    entries = [capping_config["vectors"][i["vector"]] for i in kept]
    return torch.stack([e["vector"] for e in entries]), [i["cap"] for i in kept], [e["layer"] for e in entries]


@right
def arena_style(capping_config, experiment_id):
    experiment = next((exp for exp in capping_config["experiments"] if exp["id"] == experiment_id), None)
    if experiment is None:
        raise ValueError(f"Experiment {experiment_id} not found in config")
    vectors, cap_thresholds, layer_indices = [], [], []
    for intervention in experiment["interventions"]:
        if "cap" not in intervention:
            continue
        vector_entry = capping_config["vectors"][intervention["vector"]]
        vectors.append(vector_entry["vector"].to(dtype=torch.float32))
        cap_thresholds.append(float(intervention["cap"]))
        layer_indices.append(int(vector_entry["layer"]))
    return vectors, cap_thresholds, layer_indices


def collapsed(words, key, keep_last=True):
    """A wrong solution that keeps one intervention for each key."""

    def solution(capping_config, experiment_id):
        found = {}
        for pair in capped(capping_config, experiment_id):
            if keep_last or key(pair) not in found:
                found[key(pair)] = pair
        return three(list(found.values()))

    solution.__module__ = __name__
    return wrong(words)(solution)


one_a_block = collapsed("no dict by block", lambda pair: pair[0]["layer"])
first_of_a_block = collapsed("no dict by block", lambda pair: pair[0]["layer"], keep_last=False)
one_a_vector = collapsed("no dict by block or by vector", lambda pair: id(pair[0]))


@wrong("expected the caps")
def caps_made_positive(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    return vectors, [abs(cap) for cap in caps], layers


@wrong("expected the layers")
def hidden_states_indices(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    return vectors, caps, [layer + 1 for layer in layers]


@wrong("expected the caps")
def reversed_lists(capping_config, experiment_id):
    return tuple(values[::-1] for values in with_lists(capping_config, experiment_id))


@wrong("expected the vector of .* as it is")
def signs_flipped(capping_config, experiment_id):
    vectors, caps, layers = with_lists(capping_config, experiment_id)
    return [-v for v in vectors], caps, layers


@wrong("expected the caps|another experiment")
def first_experiment_always(capping_config, experiment_id):
    capped(capping_config, experiment_id)
    return with_lists(capping_config, capping_config["experiments"][0]["id"])


@wrong("Unknown id .*found the result")
def unknown_is_the_last(capping_config, experiment_id):
    known = [e["id"] for e in capping_config["experiments"]]
    return with_lists(capping_config, experiment_id if experiment_id in known else known[-1])


@wrong("Unknown id .*found IndexError")
def unknown_is_an_index_error(capping_config, experiment_id):
    found = [e for e in capping_config["experiments"] if e["id"] == experiment_id]
    found.pop()
    return with_lists(capping_config, experiment_id)
