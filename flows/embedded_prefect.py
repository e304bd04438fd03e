"""Defaults for running Prefect inside the command, without a server of its own.

``use_embedded_prefect`` must run before Prefect is imported. What the user has set already stays; with
``PREFECT_API_URL`` set, flows report to that server instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

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
SERVER_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""As Prefect 3.8 sets it for the server that it starts itself."""
QUIET_CONSOLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


def use_embedded_prefect(console_level: str) -> None:
    """Set the defaults; ``console_level`` is the least level of Prefect's log that reaches the terminal."""
    for name, value in {**DEFAULTS, QUIET_CONSOLE: console_level}.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        # Ctrl-C ends the embedded server together with us; reporting to it must then fail soon.
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "1")


SERVER = """
import os, sys, threading, time

def end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)

threading.Thread(target=end_with, args=(int(sys.argv.pop(1)),), daemon=True).start()
from uvicorn.main import main
main()
"""
"""Prefect's server, which leaves when its parent is gone: started plainly, it would outlive a command that is killed."""


def tie_embedded_server_to_us() -> None:
    """Have Prefect start its embedded server so that it ends with this process, and does not hear the terminal's Ctrl-C.

    It must answer until it has been told how the run ended. Must run before the first flow.
    """
    from prefect.server.api.server import SubprocessASGIServer

    SubprocessASGIServer._run_uvicorn_command = _start_tied  # type: ignore[method-assign, assignment]


def _start_tied(server: SubprocessASGIServer) -> subprocess.Popen[Any]:
    from prefect.settings.context import get_current_settings

    application = ["--factory", "prefect.server.api.server:create_app"]
    place = ["--host", "127.0.0.1", "--port", str(server.port)]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            SERVER,
            str(os.getpid()),
            *application,
            *place,
            "--log-level",
            "error",
            "--lifespan",
            "on",
        ],
        env={**os.environ, **SERVER_ENVIRONMENT, **get_current_settings().to_environment_variables(exclude_unset=True)},
        start_new_session=True,
    )
