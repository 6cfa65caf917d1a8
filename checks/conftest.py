"""Lets the checks import `personalab`, `utils` and `tests` from the repository's root; shares fixtures and hooks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from endpoint_server import own_settings, server  # noqa: F401
from no_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401
from toy_course import course, plain_environment  # noqa: F401
