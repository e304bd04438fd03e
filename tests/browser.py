"""A headless Chromium that tells what a page asked for and complained about: its DevTools protocol, over a pair of pipes.

The page's own traffic only: what the browser itself asks of its maker is not part of it, and goes nowhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1200)
"""Of a phone's window and of a desktop's, in pixels."""
_READS, _WRITES = 3, 4
"""Where a browser with --remote-debugging-pipe reads requests and writes answers."""
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--remote-debugging-pipe"),
)


def find_browser() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@dataclass
class PageVisit:
    """What happened while a page was shown."""

    requests: list[str] = field(default_factory=list)
    """URLs, but ``data:``; the page itself first."""
    complaints: list[str] = field(default_factory=list)
    """Of the console: errors, warnings, uncaught exceptions."""
    drawn_widths: dict[int, int] = field(default_factory=dict)
    """How wide the page is in windows of some widths, in pixels: wider than the window, and it has to be pushed about."""
    answers: list[Any] = field(default_factory=list)
    """Values of the expressions that were asked for."""


def visit(browser: str, page: Path, profile: Path, expressions: Sequence[str] = (), seconds: float = 60) -> PageVisit:
    """Open a file, wait until it is loaded, evaluate expressions in it, and return all that happened."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # Away from the low numbers: either end may lie where the other one has to.
    reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (to_browser[0], from_browser[1]))
    os.close(to_browser[0])
    os.close(from_browser[1])
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            f'exec "$0" "$@" {_READS}<&{reads} {_WRITES}>&{writes}',
            browser,
            *_FLAGS,
            f"--user-data-dir={profile}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(reads, writes),
        start_new_session=True,
    )
    os.close(reads)
    os.close(writes)
    try:
        with os.fdopen(to_browser[1], "wb") as requests, os.fdopen(from_browser[0], "rb") as replies:
            session = _Session(requests, replies, time.monotonic() + seconds)
            return session.visit(page.as_uri(), expressions)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


class _Session:
    def __init__(self, requests: Any, replies: Any, deadline: float) -> None:
        self._requests, self._replies, self._deadline = requests, replies, deadline
        self._sent = 0
        self._buffer = b""
        self._session: str | None = None
        self._loaded = False
        self.seen = PageVisit()

    def visit(self, url: str, expressions: Sequence[str]) -> PageVisit:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=url)
        while not self._loaded:
            self._take()
        for width in WIDTHS:
            self.ask(
                "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
            )
            self.seen.drawn_widths[width] = self._evaluate("document.documentElement.scrollWidth")
        for expression in expressions:
            self.seen.answers.append(self._evaluate(expression))
        return self.seen

    def _evaluate(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def ask(self, method: str, **parameters: Any) -> Any:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        self._requests.flush()
        while True:
            reply = self._take()
            if reply.get("id") == self._sent:
                assert "error" not in reply, reply
                return reply["result"]

    def _take(self) -> Any:
        """Return the next message, noting what it tells of the page."""
        while b"\0" not in self._buffer:
            left_seconds = max(self._deadline - time.monotonic(), 0.0)
            assert select.select([self._replies], [], [], left_seconds)[0], "the browser does not answer"
            data = os.read(self._replies.fileno(), 2**16)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, parameters: Any) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                if not (url := parameters["request"]["url"]).startswith("data:"):
                    self.seen.requests.append(url)
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.seen.complaints.append(str(parameters["args"]))
            case "Runtime.exceptionThrown":
                self.seen.complaints.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.seen.complaints.append(parameters["entry"]["text"])
