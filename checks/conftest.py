"""Lets the checks import `personalab`, `utils` and `tests` from the repository's root, and shares fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from endpoint_server import own_settings, server  # noqa: F401
from toy_course import course, plain_environment  # noqa: F401
