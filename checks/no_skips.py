"""With PERSONALAB_NO_SKIPS set, a skipped check is a failure, unless what it lacks is a GPU. `.ci/run` sets it.

A skip is green: a package left out of an environment would take its checks along, and nobody would see it.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (report.skipped and os.environ.get("PERSONALAB_NO_SKIPS")) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if "needs a GPU" not in reason:
        report.outcome = "failed"
        report.longrepr = f"{reason}\nOnly a check that needs a GPU may be skipped while PERSONALAB_NO_SKIPS is set."


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: after pytest's own has read the reason of a skip mark
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at each check's set-up, call and clean-up."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at each file that was read: `importorskip` at its top skips all of it."""
    report = yield
    _refuse_skip(report)
    return report
