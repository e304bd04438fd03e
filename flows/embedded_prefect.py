"""Defaults for running Prefect inside the command, without a server of its own.

Must run before Prefect is imported. What the user has set already stays; with ``PREFECT_API_URL`` set, flows report to
that server instead.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    # A fresh machine first creates the database; 20 s, the default, is not enough for that.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    # Prefect's notes to its own developers, which it would print when the server ends before a run does.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
}
QUIET_CONSOLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


def use_embedded_prefect(console_level: str) -> None:
    """Set the defaults; ``console_level`` is the least level of Prefect's log that reaches the terminal."""
    for name, value in {**DEFAULTS, QUIET_CONSOLE: console_level}.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        # Ctrl-C ends the embedded server together with us; reporting to it must then fail soon.
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")
