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


@wrong("expected 3 vectors, found 4")
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
