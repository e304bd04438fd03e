"""What the workers log, brought to the flow run: which video failed, of which shard, why; and never a flood of it.

A worker collects what this project logs and sends it on once a second, in one message, from its event loop: labeling does
not wait for it. Of each kind of message a worker sends the first hundred and then only how many more there were; of those
of all workers, the first hundred are shown. Losing logs costs nobody a run: whatever goes wrong here is passed over.
"""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections import Counter
from collections.abc import Iterator, MutableMapping
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.protocol.pickle import dumps
from tornado.ioloop import PeriodicCallback

from tasks.log_facts import log_facts

SHOWN_PER_KIND = 100
SECONDS_BETWEEN_BATCHES = 1.0
ANSWER_SECONDS = 10.0
"""How long the scheduler may take to take note."""
LAST_BATCH_SECONDS = 2.0
LOGGERS = ("tasks", "storage", "cdmodel")

LOST = (OSError, RuntimeError, ValueError, ClosedClientError, CancelledError, FutureCancelled)
"""What Dask raises where its scheduler is silent or gone."""

AnyLogger = logging.Logger | logging.LoggerAdapter[logging.Logger]


@contextmanager
def forwarded_logs(client: Client, run_id: str, logger: AnyLogger) -> Iterator[None]:
    """Give ``logger`` what the workers log about this run, now and of workers that join."""
    name, relay = f"cdlabel-logs-{run_id}", LogRelay(logger)
    begun = _begin(client, name, run_id, relay)
    try:
        yield
        if begun and client.status == "running":
            _end(client, name, relay)
    finally:
        relay.end()


def _begin(client: Client, name: str, run_id: str, relay: LogRelay) -> bool:
    try:
        client.subscribe_topic(name, relay.receive)
        scheduler: Any = client.scheduler
        plugin = dumps(ForwardLogs(name, run_id))
        register = scheduler.register_worker_plugin
        client.sync(register, plugin=plugin, name=name, idempotent=False, callback_timeout=ANSWER_SECONDS)
    except LOST as error:
        relay.complain(error)
        return False
    return True


def _end(client: Client, name: str, relay: LogRelay) -> None:
    try:
        scheduler: Any = client.scheduler
        told = client.sync(scheduler.unregister_worker_plugin, name=name, callback_timeout=ANSWER_SECONDS)
        relay.wait_for_last(len(told))
        client.unsubscribe_topic(name)
    except LOST as error:
        relay.complain(error)


class LogRelay:
    """Passes on what the workers send, in a thread of its own and in the context of the flow run.

    Dask calls from its event loop, which knows of no flow run and must not wait for anybody's logger.
    """

    def __init__(self, logger: AnyLogger) -> None:
        self._logger = logger
        self._shown: Counter[str] = Counter()
        self._held_back: Counter[str] = Counter()
        self._last = threading.Semaphore(0)
        self._batches: SimpleQueue[MutableMapping[str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=copy_context().run, args=(self._pass_on,), daemon=True)
        self._thread.start()

    def receive(self, event: tuple[float, MutableMapping[str, Any]]) -> None:
        """Take a batch of one worker, at once."""
        _, batch = event
        self._batches.put(batch)
        if batch["last"]:
            self._last.release()

    def _pass_on(self) -> None:
        while (batch := self._batches.get()) is not None:
            for level, kind, text in batch["lines"]:
                if self._shown[kind] < SHOWN_PER_KIND:
                    self._shown[kind] += 1
                    self._logger.log(level, "%s", text)
                else:
                    self._held_back[kind] += 1
            self._held_back.update(batch["more"])

    def wait_for_last(self, workers: int) -> None:
        """Wait, but not for long, until so many workers have sent their last batch."""
        for _ in range(workers):
            if not self._last.acquire(timeout=LAST_BATCH_SECONDS):
                return

    def complain(self, error: BaseException) -> None:
        """Say that some are missing."""
        self._logger.warning("logs of the workers are not shown: %s", error)

    def end(self) -> None:
        """Show what has been received, and tell how many messages were not shown."""
        self._batches.put(None)
        self._thread.join(ANSWER_SECONDS)
        for kind, count in sorted(self._held_back.items()):
            self._logger.info("%s: %d more, not shown", kind, count)


class BatchingHandler(logging.Handler):
    """Collects records about one run, a limited number of each kind."""

    def __init__(self, run_id: str, worker: str) -> None:
        super().__init__(logging.INFO)
        self._run_id = run_id
        self._worker = worker
        self._sent: Counter[str] = Counter()
        self._lines: list[tuple[int, str, str]] = []
        self._more: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or count a record; those about another run are not ours."""
        facts = log_facts()
        if facts.get("run", self._run_id) != self._run_id:
            return
        kind = str(getattr(record, "kind", record.msg))
        if self._sent[kind] >= SHOWN_PER_KIND:
            self._more[kind] += 1
            return
        self._sent[kind] += 1
        named = {**facts, "worker": self._worker}
        if hasattr(record, "kind"):
            named["kind"] = kind
        text = f"{record.getMessage()} ({' '.join(f'{name}={value}' for name, value in named.items())})"
        self._lines.append((record.levelno, kind, text))

    def take(self, *, last: bool) -> dict[str, Any]:
        """Return what has come together since the last time, and forget it."""
        with self._lock_held():
            batch = {"lines": self._lines, "more": dict(self._more), "last": last}
            self._lines, self._more = [], Counter()
        return batch

    @contextmanager
    def _lock_held(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


class ForwardLogs(WorkerPlugin):
    """On a worker: sends what the handler collects, until it is told to stop."""

    def __init__(self, topic: str, run_id: str) -> None:
        self.name = topic
        self._run_id = run_id

    def setup(self, worker: Any) -> None:
        """Begin to collect."""
        self._worker = worker
        self._handler = BatchingHandler(self._run_id, worker.address)
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self._handler)
            # Most of what is told is no warning, and unless asked for it is not even made.
            logger.setLevel(logging.INFO)
        self._clock = PeriodicCallback(self._send, SECONDS_BETWEEN_BATCHES * 1000)
        self._clock.start()

    def teardown(self, worker: Any) -> None:
        """Send the rest."""
        self._clock.stop()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        worker.log_event(self.name, self._handler.take(last=True))

    def _send(self) -> None:
        batch = self._handler.take(last=False)
        if batch["lines"] or batch["more"]:
            self._worker.log_event(self.name, batch)
