"""Whole numbers, as they come in."""

from typing import Final

from pydantic import BeforeValidator


def _whole(value: object) -> object:
    """Return 9 for 9.0: to JSON they are the same integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole)
"""Makes a strict field of integers take all that JSON calls one."""
