"""How cost grows: the fits are right, the tables are those of the committed results, and all that is timed runs."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import utils
from benchmarks.costs import engine, plain, table
from benchmarks.costs.figure import PICTURE
from benchmarks.costs.fit import growth
from benchmarks.costs.quantity import Quantity, in_rounds
from personalab.endpoint import generate_responses_parallel
from personalab.endpoint.client import make_client
from personalab.endpoint.stand_in import stand_in
from personalab.lm.tiny import load_tiny_model

SIZES = (100, 200, 400, 800)


def test_exponents_and_the_line_are_those_of_what_grew() -> None:
    sizes = np.array(SIZES, dtype=float)
    square = growth(SIZES, (1e-6 * sizes**2)[:, None] * np.array([1.0, 1.1, 0.9]))
    assert np.allclose(square.exponent, 2) and np.allclose(square.at_the_end, 2)
    assert square.off > 0.2, "no straight line"
    line = growth(SIZES, (0.5 + 2e-3 * sizes)[:, None] * np.ones(2))
    assert (line.fixed, line.each) == pytest.approx((0.5, 2e-3)) and line.off < 1e-6
    assert line.exponent[0] < line.at_the_end[0] < 1
    flat = growth(SIZES, np.full((4, 2), 0.3))
    assert np.allclose(flat.exponent, 0) and flat.fixed == pytest.approx(0.3)
    with pytest.raises(ValueError, match="4 sizes need as many rows"):
        growth(SIZES, [[1.0]])


def test_rounds_go_up_and_down() -> None:
    met: list[int] = []

    def make(size: int):
        return lambda: met.append(size)

    found = in_rounds({"x": Quantity("x", "pieces", (1, 2, 3), 1, make)}, rounds=2)
    assert met == [1, 2, 1, 2, 3, 3, 2, 1]
    assert np.shape(found["x"]["processor"]) == (3, 2)


def test_everything_that_is_timed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LAST", 1)
    monkeypatch.setattr(utils, "load_model", lambda which: load_tiny_model("llama"))
    monkeypatch.setattr(engine, "_whole", lambda completions: None)  # a random model ends when it likes
    made = engine.quantities()
    for name in set(made) - {"depth", "kept", "judged"}:
        made[name].make(2)()
    for name, quantity in (made | plain.quantities()).items():
        assert list(quantity.sizes) == sorted(quantity.sizes) and quantity.should in (0, 1), name
    for quantity in plain.quantities().values():
        quantity.make(8)()


def test_the_tables_and_the_figure_are_those_of_the_results() -> None:
    shown = table.README.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    results = json.loads(table.RESULTS.read_text(encoding="utf-8"))
    assert shown.strip() == table.tables(results)
    assert PICTURE.stat().st_size < 200_000
    drawn = PICTURE.read_text(encoding="utf-8")
    for part in table.TITLES:
        for quantity in results[part]["quantities"].values():
            assert quantity["title"] in drawn


def test_nothing_on_record_grows_faster_than_it_should() -> None:
    results = table.load()
    for part in table.TITLES:
        for name, found in results[part]["quantities"].items():
            assert growth(found["sizes"], found["processor"]).exponent[0] < found["should"] + 0.15, name


def test_the_stand_in_waits_as_long_as_it_is_told_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERSONALAB_RESPONSE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    taken = {}
    for delay in (0.0, 0.1):
        with stand_in(delay) as server:
            client = make_client(base_url=server.url)
            seconds = []
            for i in range(12):
                start = time.perf_counter()
                generate_responses_parallel(
                    [[{"role": "user", "content": f"{i}?"}]], model="x", progress=False, client=client
                )
                seconds.append(time.perf_counter() - start)
            taken[delay] = min(seconds)
    assert taken[0.0] < 0.035, "a body that waits for the headers' acknowledgement takes 40 ms"
    assert taken[0.1] >= 0.1
