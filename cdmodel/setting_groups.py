"""What every group of settings shares, wherever it is declared."""

from __future__ import annotations

from typing import Final

FORBID_UNKNOWN: Final = {"extra": "forbid"}
"""Value of ``__pydantic_config__``: an unknown key is an error where a group is read from a file."""
