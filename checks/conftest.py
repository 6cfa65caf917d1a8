"""Lets the checks import `personalab`, `utils` and `tests` from the repository's root; shares fixtures and hooks."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: each, and what it starts, with its share of the threads
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(share, 1)))

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from endpoint_server import own_settings, server  # noqa: F401
from no_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401
from toy_course import course, plain_environment  # noqa: F401

from personalab import tiers


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the garbage collector need not look at it again in thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_tier_left_behind() -> Iterator[None]:
    """A test may choose a tier; the next one finds what was there before."""
    before = tiers._active
    yield
    tiers._active = before


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked, as for users: for what we ourselves say of a wrong type or shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
