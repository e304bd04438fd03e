"""A proxy before an S3 server that spoils the requests it is told to, by their kind and number or by lot."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

Kind = Literal["list", "head", "get", "get range", "put", "put new", "delete"]
Fault = Literal[
    "503", "reset before", "reset after", "cut", "stall", "403", "409", "501", "expired", "no bucket", "no condition"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
PASSING: tuple[Fault, ...] = ("503", "reset before", "reset after", "cut", "stall")
"""Faults of the line or of a busy server; the others are a server's last word."""
_ANSWERS = {
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "409": (409, "ConditionalRequestConflict"),
    "501": (501, "NotImplemented"),
    "expired": (400, "ExpiredToken"),
    "no bucket": (404, "NoSuchBucket"),
}
_HOP_HEADERS = frozenset(
    {"connection", "transfer-encoding", "keep-alive", "expect", "content-length", "date", "server"}
)


@dataclass
class AimedProxy:
    """What the proxy has seen and what it does; change it while it runs."""

    target: str
    port: int = 0
    kinds: frozenset[Kind] = frozenset()
    """Requests that may be spoiled."""
    faults: tuple[Fault, ...] = ()
    """One of these befalls them."""
    skip: int = 0
    """Requests of each of these kinds that pass before the first is spoiled."""
    limit: int | None = None
    """Requests of each kind to be spoiled; None is all that follow."""
    share: float = 1.0
    """Of the requests that could be spoiled, so many are, drawn by lot."""
    lot: random.Random = field(default_factory=lambda: random.Random(0))
    met: Counter[Kind] = field(default_factory=Counter)
    """Requests since it was aimed."""
    seen: Counter[Kind] = field(default_factory=Counter)
    spoiled: Counter[tuple[Kind, Fault]] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def aim(self, *faults: Fault, at: tuple[Kind, ...] = KINDS, skip: int = 0, limit: int | None = None) -> None:
        """Let faults befall requests of these kinds from now on."""
        with self.lock:
            self.kinds, self.faults, self.skip, self.limit, self.share = frozenset(at), faults, skip, limit, 1.0
            self.met.clear()

    def storm(self, share: float, seed: int, *faults: Fault) -> None:
        """Let any of the faults befall any request with this probability."""
        self.aim(*faults)
        self.share, self.lot = share, random.Random(seed)

    def calm(self) -> None:
        """Do no more harm; what stalls is let go."""
        self.aim()
        self.stopped.set()
        self.stopped = threading.Event()

    def next_fault(self, kind: Kind) -> Fault | None:
        with self.lock:
            self.seen[kind] += 1
            self.met[kind] += 1
            number = self.met[kind] - self.skip
            if kind not in self.kinds or not self.faults or number < 1:
                return None
            if self.limit is not None and number > self.limit:
                return None
            if self.share < 1.0 and self.lot.random() >= self.share:
                return None
            fault = self.lot.choice(self.faults)
            self.spoiled[kind, fault] += 1
            return fault


@contextmanager
def proxy_before(endpoint: str) -> Iterator[AimedProxy]:
    """Run a proxy on a port of its own until the block ends."""
    proxy = AimedProxy(target=endpoint)

    class Handler(_Handler):
        state = proxy

    server = _QuietServer(("127.0.0.1", 0), Handler)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def kind_of(method: str, path: str, headers: dict[str, str]) -> Kind:
    match method:
        case "HEAD":
            return "head"
        case "DELETE":
            return "delete"
        case "PUT":
            return "put new" if "if-none-match" in headers else "put"
        case "GET" if "list-type" in parse_qs(urlsplit(path).query):
            return "list"
        case "GET":
            return "get range" if "range" in headers else "get"
        case _:
            raise AssertionError(f"a request nobody expected: {method} {path}")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True  # a client's idle connection must not hold up the end
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: AimedProxy

    def _pass_on(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        fault = self.state.next_fault(kind_of(self.command, self.path, headers))
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            xml = f"<Error><Code>{code}</Code><Message>injected {code}</Message></Error>".encode()
            self._answer(status, {"content-type": "application/xml"}, xml)
            return
        if fault == "reset before":
            self.close_connection = True
            return
        if fault == "no condition":
            headers.pop("if-none-match", None)
        status, answer_headers, answer = self._ask(headers, body)
        if fault == "reset after":
            self.close_connection = True
        elif fault == "stall":
            self.state.stopped.wait(30)
            self.close_connection = True
        else:
            self._answer(status, answer_headers, answer, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _pass_on

    def _ask(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        target = urlsplit(self.state.target)
        connection = HTTPConnection(target.hostname or "", target.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.putheader("connection", "close")
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        length = headers.get("content-length", "0") if self.command == "HEAD" and status == 200 else str(len(body))
        sent = b"" if self.command == "HEAD" else body
        self.send_response(status)
        for name, value in headers.items():
            if name not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        if cut:
            # Half of the body, or where there is none, of the headers.
            if len(sent) < 2:
                self._headers_buffer = self._headers_buffer[:2]
            sent = sent[: len(sent) // 2]
            self.close_connection = True
        self.end_headers() if not cut or sent else self.flush_headers()
        try:
            self.wfile.write(sent)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
