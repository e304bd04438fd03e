"""Defaults for running Prefect inside the command, without a server of its own.

``use_embedded_prefect`` must run before Prefect is imported. What the user has set already stays; with
``PREFECT_API_URL`` set, flows report to that server instead. ``scheduling_server`` is what ``cdlabel serve`` runs on.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from cdmodel.errors import RunError

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
REPORTING = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""Of a server that takes reports and does nothing else, as Prefect 3.8 has it for the one that it starts itself."""
APPLICATION = ("--factory", "prefect.server.api.server:create_app")
HOST, PORT = "127.0.0.1", 4200
_REPORTING_NOW: set[str] = set()
START_SECONDS = 120.0
END_SECONDS = 5.0
ANSWER_SECONDS = 10.0
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


@contextmanager
def reporting_server() -> Iterator[Callable[[], None]]:
    """Have flow runs of this process reported to the API that is set, or to a server of our own; yield what waits for it.

    Ours starts while the caller goes on. It ends with this process, once Prefect has sent at exit what it still has to say, and
    does not hear the terminal's Ctrl-C. Prefect's own would be started when the flow is called, not before, and by loading
    all of the server into this process too.

    Raises:
        RunError: our server does not answer; raised by what waits.
    """
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    seconds = get_current_settings().server.ephemeral.startup_timeout_seconds
    port = _free_port(0)
    url = f"http://{HOST}:{port}/api"
    server = _start_server(port, REPORTING)
    atexit.register(_end_server, server)
    _REPORTING_NOW.add(url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield lambda: _wait_until_it_answers(url, server, seconds)


def outlives_this_process(url: str) -> bool:
    """Tell whether a Prefect API is of somebody else's server, or of one that shows pages: not of a reporting one of ours."""
    return url not in _REPORTING_NOW


@contextmanager
def scheduling_server() -> Iterator[str]:
    """Yield the URL of a Prefect API that starts scheduled runs: the one that is set, or that of a server of our own.

    Prefect's embedded server schedules nothing and shows no page; ours does both, and ends with the context and with this
    process. Listens on loopback, at PREFECT_SERVER_API_PORT, else 4200 if that is free, else any port.

    Raises:
        RunError: our server did not start, or nobody answers at the URL that is set.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = PREFECT_API_URL.value()
    if url:
        _wait_until_it_answers(url, None, ANSWER_SECONDS)
        yield url
        return
    port = int(os.environ.get("PREFECT_SERVER_API_PORT") or _free_port(PORT, 0))
    url = f"http://{HOST}:{port}/api"
    place = {"PREFECT_SERVER_API_HOST": HOST, "PREFECT_SERVER_API_PORT": str(port), "PREFECT_UI_API_URL": url}
    server = _start_server(port, {**place, "PREFECT__SERVER_FINAL": "1"})
    try:
        _wait_until_it_answers(url, server, START_SECONDS)
        # For the processes of flow runs, and for this one.
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        _end_server(server)


def _start_server(port: int, environment: dict[str, str]) -> subprocess.Popen[Any]:
    place = ["--host", HOST, "--port", str(port)]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            SERVER,
            str(os.getpid()),
            *APPLICATION,
            *place,
            "--log-level",
            "error",
            "--lifespan",
            "on",
        ],
        env={**os.environ, **environment},
        start_new_session=True,
    )


def _end_server(server: subprocess.Popen[Any]) -> None:
    server.terminate()
    try:
        server.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _free_port(*candidates: int) -> int:
    """Return the first that nobody listens at; 0 is any."""
    for port in candidates:
        with closing(socket.socket()) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((HOST, port))
            except OSError:
                continue
            return int(candidate.getsockname()[1])
    raise RunError("the Prefect server", "there is no free port on this machine")


def _wait_until_it_answers(url: str, server: subprocess.Popen[Any] | None, seconds: float) -> None:
    """Return once the API answers, of ``server`` or of somebody else's.

    Raises:
        RunError: it has not within that time, or our server has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS):
                return
        except urllib.error.HTTPError:
            return  # it answers, and wants to know who asks
        except (OSError, ValueError) as error:
            if server is not None and server.poll() is not None:
                raise RunError("the Prefect server", f"ended while it started, with {server.returncode}") from error
            if time.monotonic() > deadline:
                reason = (
                    f"no Prefect server answers there ({error}); check PREFECT_API_URL"
                    if server is None
                    else f"our Prefect server does not answer within {seconds:g} s ({error}); run the same command again"
                )
                raise RunError(url, reason) from error
        time.sleep(0.2)
