"""The examples in docstrings run: in the modules whose conventions people get wrong."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["lm.chat", "lm.interventions", "measure.auc", "measure.crossed", "measure.intervals"])
def test_the_examples_in_docstrings_hold(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"personalab.{name}"))
    assert done.attempted and not done.failed
