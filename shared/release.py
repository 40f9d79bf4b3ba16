"""Which release of Postroom this is."""

from typing import Final

RELEASE: Final = "0.1.0"
"""As in `pyproject.toml`, which no image has."""
