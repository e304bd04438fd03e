"""What decodes, by name and version. Apart from the decoder itself, so that planning need not load it."""

from __future__ import annotations

from importlib.metadata import version

DECODER_NAME = f"pyav-{version('av')}"
"""The column ``decoder``: what one version could not read says nothing about another one."""
