"""Lets the checks import `personalab`, `utils` and `tests` from the repository's root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
