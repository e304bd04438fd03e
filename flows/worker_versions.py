"""Sends away workers that would compute something else: other code of ours, or another torch, av, numpy or pyarrow.

Rows of one run must come from one program. Those who are there when a run starts are asked before anything is sent; a
worker that joins later asks itself, by a plugin, before it takes its first shard, and leaves. What asks travels to the
worker with its code, so that a worker which has other code, or none, can be asked too.
"""

from __future__ import annotations

import hashlib
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle
from distributed import Client, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.protocol.pickle import dumps

from cdmodel.errors import ClusterError

PACKAGES = ("cdlabel", "torch", "av", "numpy", "pyarrow")
"""Whose versions have to be the same, but for what follows a ``+``: a build for another device."""
OUR_CODE = ("cdmodel", "storage", "tasks", "flows")
SOURCE = "source"
"""The fact that is a hash of our code: a version alone says nothing of a checkout."""
ANSWER_SECONDS = 30.0

LOST = (OSError, RuntimeError, ClosedClientError, CancelledError, FutureCancelled)
"""What Dask raises where its scheduler is silent or gone."""


def code_facts() -> dict[str, str]:
    """Return what this process would compute with: versions, and the hash of our source files."""
    facts = {SOURCE: _hash_of_source()}
    for package in PACKAGES:
        try:
            facts[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            facts[package] = "none"
    return facts


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Say in which facts ``found`` is not what is wanted; empty where it is."""
    unlike = [name for name in wanted if found.get(name) != wanted[name]]
    # With another version the files differ too, which says nothing more.
    said = [name for name in unlike if name != SOURCE or "cdlabel" not in unlike]
    return ", ".join(
        "other files of cdlabel under the same version"
        if name == SOURCE
        else f"{name} {found.get(name)} instead of {wanted[name]}"
        for name in said
    )


@contextmanager
def same_code(client: Client, address: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Have only workers with this process's code and packages take part; ``tell`` hears of those sent away.

    Raises:
        ClusterError: the scheduler, or a worker that is there already, has other code; nothing was sent.
    """
    wanted = code_facts()
    topic = f"cdlabel-versions-{client.id}"
    with _code_travels():
        _check_scheduler(client, address, wanted)
        _check_workers(client, address, wanted)
        client.subscribe_topic(topic, lambda event: tell(event[1]["said"]))
        scheduler: Any = client.scheduler
        plugin = dumps(SendOthersAway(wanted, topic))
        register = scheduler.register_worker_plugin
        client.sync(register, plugin=plugin, name=topic, idempotent=False, callback_timeout=ANSWER_SECONDS)
    try:
        yield
    finally:
        _end(client, topic)


class SendOthersAway(WorkerPlugin):
    """On a worker: leave at once, saying why, if something differs. Its nanny, if it has one, leaves with it."""

    def __init__(self, wanted: Mapping[str, str], topic: str) -> None:
        self._wanted = dict(wanted)
        self._topic = topic

    async def setup(self, worker: Any) -> None:
        """Look, before the worker reads what the scheduler has sent it."""
        unlike = differences(code_facts(), self._wanted)
        if unlike:
            said = f"worker {worker.address} was sent away, it has {unlike}"
            # By calls of their own: what is only queued is lost when the worker closes. A departure that the scheduler
            # expects is not blamed on the shard that it has just assigned.
            await worker.scheduler.log_event(topic=self._topic, msg={"said": said})
            await worker.scheduler.unregister(
                address=worker.contact_address, expected=True, close=False, stimulus_id="cdlabel-other-code"
            )
            await worker.close(reason=said)


def _check_scheduler(client: Client, address: str, wanted: Mapping[str, str]) -> None:
    found = client.run_on_scheduler(code_facts)
    # It unpickles work, so it needs our code; models it never loads.
    ours = {name: wanted[name] for name in ("cdlabel", SOURCE)}
    if unlike := differences(found, ours):
        raise ClusterError(address, f"the scheduler has {unlike}; install what this command runs with there")


def _check_workers(client: Client, address: str, wanted: Mapping[str, str]) -> None:
    answers = client.run(code_facts, on_error="return")
    for worker, found in answers.items():
        if isinstance(found, Exception):
            raise ClusterError(address, f"its worker {worker} cannot say what it runs ({found}); install cdlabel there")
        if unlike := differences(found, wanted):
            raise ClusterError(address, f"its worker {worker} has {unlike}; install what this command runs with there")


def _end(client: Client, topic: str) -> None:
    if client.status != "running":
        return
    try:
        scheduler: Any = client.scheduler
        client.sync(scheduler.unregister_worker_plugin, name=topic, callback_timeout=ANSWER_SECONDS)
        client.unsubscribe_topic(topic)
    except LOST:
        pass  # the run ends by its own error, or is over


@contextmanager
def _code_travels() -> Iterator[None]:
    """Pickle this module's functions with their code instead of by name."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _hash_of_source() -> str:
    """Return a hash of all our modules, "none" where we are not installed."""
    digest = hashlib.sha256()
    for package in OUR_CODE:
        found = find_spec(package)
        if found is None or found.origin is None:
            return "none"
        folder = Path(found.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]
