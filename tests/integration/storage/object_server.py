"""An object server on loopback that can misbehave: one object, told alike by S3 and by HTTP."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["none", "503", "reset", "cut", "stall", "no ranges", "elsewhere"]
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
CUT_AFTER_BYTES = 1000
STALL_SECONDS = 30.0


@dataclass
class ObjectServer:
    """What the server holds and how it behaves; change it while it runs."""

    content: bytes
    etag: str = "0123456789abcdef0123456789abcdef"
    faults: list[Fault] = field(default_factory=list)
    """What befalls the next GETs, one each; the last one befalls all that follow."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """Asked for by GET, half-open."""
    lookups: int = 0
    """HEADs."""
    lookups_stall: bool = False
    port: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bucket/a.mp4"

    def next_fault(self) -> Fault:
        if not self.faults:
            return "none"
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]


@contextmanager
def serve_object(content: bytes) -> Iterator[ObjectServer]:
    """Run a server on a port of its own until the block ends."""
    served = ObjectServer(content=content)

    class Handler(_Handler):
        state = served

    server = _QuietServer(("127.0.0.1", 0), Handler)
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        served.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0  # a connection that is kept open for more must not hold up the end
    state: ObjectServer

    def do_HEAD(self) -> None:
        self.state.lookups += 1
        if self.state.lookups_stall:
            self.state.stopped.wait(STALL_SECONDS)
        self._headers(200, len(self.state.content))

    def do_GET(self) -> None:
        asked = _RANGE.fullmatch(self.headers["Range"] or "")
        assert asked is not None, "a GET without a range"
        start, end = int(asked[1]), int(asked[2]) + 1
        self.state.ranges.append((start, end))
        total = len(self.state.content)
        fault = self.state.next_fault()
        match fault:
            case "503":
                self._headers(503, 0)
                return
            case "reset":
                self.close_connection = True
                return
            case "no ranges":
                self._headers(200, total)
                self._send(self.state.content)
                return
            case "elsewhere":
                start, end = start + 1, end + 1
            case _:
                pass
        if start >= total:
            self._headers(416, 0)
            return
        end = min(end, total)
        self._headers(206, end - start, f"bytes {start}-{end - 1}/{total}")
        body = self.state.content[start:end]
        if fault in ("cut", "stall"):
            self._send(body[:CUT_AFTER_BYTES])
            if fault == "stall":
                self.state.stopped.wait(STALL_SECONDS)
            self.close_connection = True
            return
        self._send(body)

    def _headers(self, status: int, length: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{self.state.etag}"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _send(self, body: bytes) -> None:
        try:
            self.wfile.write(body)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
