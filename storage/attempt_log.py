"""What an attempt at a shard wrote down while it ran: how long it had worked, and which video it was about to label.

A worker that dies says nothing more, so what must be known of its end has to stand in storage before. Entries are small
objects, created and never changed: one at the start, one whenever ``SECONDS_BETWEEN_ENTRIES`` have passed, and, where an
earlier attempt at the same shard has not come back, one before every video. From the last entries follow the video that
a worker died of, and the time that died with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from threading import Lock

from pydantic import TypeAdapter, ValidationError

from cdmodel.errors import StorageError
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.run_layout import attempts_folder

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_ENTRIES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEntry:
    """One line of the log."""

    launch_id: str
    """The labeling stage that handed the shard out: it gives a shard to one worker at a time."""
    written_at: datetime
    spent_seconds: float
    """Wall time since the attempt began."""
    videos_done: int
    video_id: str | None
    """The video that was labeled next; None where none was, or where that was not written down for every video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt at a shard, as far as it told."""

    shard_id: str
    attempt_id: str
    last: AttemptEntry


_ENTRY = TypeAdapter(AttemptEntry)


class AttemptLog:
    """The log of the attempt that is running. What it cannot write is missing later, and costs nothing now.

    Videos that are at hand at once may tell it so from their threads.
    """

    def __init__(
        self, store: Store, run_id: str, shard_id: str, *, launch_id: str, attempt_id: str, earlier: Sequence[Attempt]
    ) -> None:
        self._store = store
        self._stem = f"{_shard_folder(run_id, shard_id)}/{attempt_id}"
        self._launch_id = launch_id
        self.names_videos = bool(earlier)
        """Whether each video is written down before it is begun: then no other may be at hand meanwhile."""
        self.suspects = suspects(earlier, launch_id)
        """Videos that a worker of this launch died of: not to be tried once more."""
        self.follows_a_death = any(attempt.last.launch_id == launch_id for attempt in earlier)
        """Whether a worker of this launch has died at this shard: an attempt begins once the one before is dead."""
        self._lock = Lock()
        self._began = self._written = time.monotonic()
        self._entries = self._videos_done = 0
        self._write(None)

    def before_video(self, video_id: str) -> None:
        """Write down that this video is next, where that may matter."""
        with self._lock:
            if self.names_videos:
                self._write(video_id)
            elif time.monotonic() - self._written >= SECONDS_BETWEEN_ENTRIES:
                self._write(None)

    def after_video(self) -> None:
        """Count a video; from here on its death would be another's."""
        with self._lock:
            self._videos_done += 1

    def before_commit(self) -> None:
        """Write down that all videos are done: dying now is no video's fault."""
        if self.names_videos:
            self._write(None)

    def lost(self) -> None:
        """Write down what was spent by an attempt that another one was faster than."""
        self._write(None)

    def _write(self, video_id: str | None) -> None:
        self._written = time.monotonic()
        entry = AttemptEntry(
            launch_id=self._launch_id,
            written_at=datetime.now(UTC),
            spent_seconds=self._written - self._began,
            videos_done=self._videos_done,
            video_id=video_id,
        )
        name = f"{self._stem}-{self._entries:05d}.json"
        self._entries += 1
        try:
            self._store.create(name, _ENTRY.dump_json(entry))
        except StorageError as error:
            logger.warning("attempt not logged: %s", error)


def open_attempt(store: Store, run_id: str, shard_id: str, *, launch_id: str, attempt_id: str) -> AttemptLog:
    """Begin the log of an attempt, in knowledge of those before it."""
    try:
        earlier = read_attempts(store, run_id, shard_id)
    except StorageError as error:
        logger.warning("earlier attempts not read: %s", error)
        earlier = ()
    return AttemptLog(store, run_id, shard_id, launch_id=launch_id, attempt_id=attempt_id, earlier=earlier)


def suspects(attempts: Iterable[Attempt], launch_id: str) -> frozenset[str]:
    """Return the videos that attempts of this launch were at when they were heard of last.

    Only of this launch: it begins an attempt once the one before is known to be dead, while another launch may be alive.
    """
    return frozenset(
        attempt.last.video_id
        for attempt in attempts
        if attempt.last.launch_id == launch_id and attempt.last.video_id is not None
    )


def died_of(store: Store, run_id: str, shard_id: str, launch_id: str) -> frozenset[str] | None:
    """Return the videos of a shard that workers of this launch died of; None where no attempt of it has begun.

    Raises:
        StorageUnavailable: the log cannot be read.
    """
    attempts = [entry for entry in read_attempts(store, run_id, shard_id) if entry.last.launch_id == launch_id]
    return suspects(attempts, launch_id) if attempts else None


def can_go_on(named: frozenset[str] | None, named_before: frozenset[str] | None) -> bool:
    """Tell whether a shard that was given up by the scheduler is worth another round.

    It is where its deaths have named videos that are left out from now on, and where none of the deaths was its own: a
    shard that waited on a worker is blamed with the one that ran there.
    """
    return named is None or bool(named - (named_before or frozenset()))


def read_attempts(store: Store, run_id: str, shard_id: str) -> tuple[Attempt, ...]:
    """Return what is known of all attempts at a shard, in no particular order.

    Raises:
        StorageUnavailable: the log cannot be read.
    """
    return _read_all(store, _last_names(store, _shard_folder(run_id, shard_id)).values())


def lost_seconds(store: Store, run_id: str, winners: Mapping[str, str]) -> float:
    """Return the wall seconds that attempts spent which did not become their shard's object, as far as they told.

    What a dead attempt spent after its last entry is not known and not counted.

    Args:
        store: OUT.
        run_id: the run.
        winners: by shard, the attempt whose object stands.

    Raises:
        StorageUnavailable: the log cannot be read.
    """
    last_names = _last_names(store, attempts_folder(run_id))
    lost = [name for (shard_id, attempt_id), name in last_names.items() if winners.get(shard_id) != attempt_id]
    return sum(attempt.last.spent_seconds for attempt in _read_all(store, lost))


def _shard_folder(run_id: str, shard_id: str) -> str:
    return f"{attempts_folder(run_id)}/{shard_id}"


def _last_names(store: Store, folder: str) -> dict[tuple[str, str], str]:
    """Return, by shard and attempt, the name of the last entry."""
    last_names: dict[tuple[str, str], str] = {}
    for item in store.list(folder):
        last_names[_attempt_of(item.name)] = item.name  # ascending, so that the last one stays
    return last_names


def _attempt_of(name: str) -> tuple[str, str]:
    _, shard_id, file_name = name.rsplit("/", 2)
    return shard_id, file_name.partition("-")[0]


def _read_all(store: Store, names: Iterable[str]) -> tuple[Attempt, ...]:
    found = map_ahead(partial(_read_last, store), names)
    return tuple(attempt for attempt in found if attempt is not None)


def _read_last(store: Store, name: str) -> Attempt | None:
    """Return None for an entry that was changed: the log explains, nothing depends on it."""
    try:
        entry = _ENTRY.validate_json(store.read(name))
    except ValidationError:
        logger.warning("%s is no entry of an attempt's log; passed over", store.uri_of(name))
        return None
    shard_id, attempt_id = _attempt_of(name)
    return Attempt(shard_id=shard_id, attempt_id=attempt_id, last=entry)
