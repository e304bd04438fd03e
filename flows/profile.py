"""Where the time of one command went: collected while it runs, written as one file when it ends, however it ends.

Changes nothing of what is done. What is kept is bounded; a file that cannot be written at the end costs nobody the run.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cdmodel.errors import OutputError, UsageError
from cdmodel.stretches import StretchRecorder, Track, recorded
from cdmodel.types import Shard
from flows.command import say
from flows.profile_document import ProfiledCommand, ProfiledShard, profile_document
from tasks.profiled_shard import Profiled, profile_shard, this_thread
from tasks.report_file import require_new_document, write_document

if TYPE_CHECKING:
    from flows.shard_rounds import ShardWork

MOST_STRETCHES = 200_000
"""Of all workers; beyond them only those of whole shards are kept. About 30 MB of document."""
ALWAYS_KEPT: tuple[Track, ...] = ("shard", "models", "commit")


class CommandProfile:
    """What one command has been at so far."""

    def __init__(self, recorder: StretchRecorder) -> None:
        self._began_ns = time.time_ns()
        self._recorder = recorder
        self._handed_out_ns: dict[str, int] = {}
        self._shards: list[ProfiledShard] = []
        self._busy_ns: Counter[Track] = Counter()
        self._kept = 0
        self._left_out = 0

    def hand_out(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Yield the shards and note when each was asked for."""
        for shard in shards:
            self._handed_out_ns[shard.shard_id] = time.time_ns()
            yield shard

    def add(self, profiled: Profiled[Any]) -> None:
        """Keep what a worker was at, or of very many shards what matters most."""
        stretches = profiled.stretches
        for stretch in stretches:
            self._busy_ns[stretch.track] += stretch.busy_ns
        if self._kept + len(stretches) > MOST_STRETCHES:
            stretches = tuple(stretch for stretch in stretches if stretch.track in ALWAYS_KEPT)
            self._left_out += len(profiled.stretches) - len(stretches)
        self._kept += len(stretches)
        received_ns = time.time_ns()
        shard = ProfiledShard(
            worker=profiled.worker,
            handed_out_ns=self._handed_out_ns.get(profiled.receipt.shard_id, self._began_ns),
            received_ns=received_ns,
            stretches=stretches,
        )
        self._shards.append(shard)

    def result(self) -> ProfiledCommand:
        """Return all of it."""
        return ProfiledCommand(
            began_ns=self._began_ns,
            command=this_thread(),
            stretches=self._recorder.stretches,
            shards=tuple(self._shards),
            busy_ns=self._busy_ns,
            left_out=self._left_out,
        )


_ACTIVE: ContextVar[CommandProfile | None] = ContextVar("command_profile", default=None)


@contextmanager
def profiling(place: str | None) -> Iterator[None]:
    """Collect where the time within goes and write it to ``place``; None does nothing, and so does the inner one of two.

    Raises:
        OutputError: the file stands there already or could not be written there; raised before anything else is done.
    """
    if place is None or _ACTIVE.get() is not None:
        yield
        return
    require_new_document(place)
    with recorded() as recorder:
        profile = CommandProfile(recorder)
        token = _ACTIVE.set(profile)
        try:
            yield
        except UsageError:
            raise  # nothing was done
        except BaseException:
            _write(place, profile)
            raise
        else:
            _write(place, profile)
        finally:
            _ACTIVE.reset(token)


def profiled_shards(shards: Iterator[Shard]) -> Iterator[Shard]:
    """Return the shards, noted as they are taken where the command is profiled."""
    profile = _ACTIVE.get()
    return shards if profile is None else profile.hand_out(shards)


def profiled_work(work: ShardWork[Any]) -> ShardWork[Any]:
    """Return the work, or where the command is profiled, work that also tells what it was at."""
    profile = _ACTIVE.get()
    if profile is None:
        return work

    def on_done(profiled: Profiled[Any]) -> None:
        profile.add(profiled)
        work.on_done(profiled.receipt)

    return replace(work, run=partial(profile_shard, work.run, work.name), on_done=on_done)


def _write(place: str, profile: CommandProfile) -> None:
    document = profile_document(profile.result(), version=version("cdlabel"))
    try:
        written = write_document(place, json.dumps(document, separators=(",", ":")).encode())
    except OutputError as error:
        say(f"the profile is lost: {error.subject} {error.reason}")
    else:
        say(f"the profile stands in {written}: open it in ui.perfetto.dev or chrome://tracing")
