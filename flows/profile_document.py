"""The profile of a run as a document in Chrome's trace event format, which Perfetto and chrome://tracing show.

Arithmetic alone. One process of the document is the command itself, every other one a thread of a worker; its threads are
the tracks of ``cdmodel.stretches``.
Source of the format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from cdmodel.stretches import Stretch, Track
from tasks.profiled_shard import WorkerThread

TRACKS: tuple[Track, ...] = get_args(Track)
TITLES: Mapping[Track, str] = {
    "driver": "command",
    "shard": "shards",
    "models": "loading the models",
    "video": "videos",
    "decoder": "waiting for the decoder",
    "student": "student",
    "teacher": "teacher",
    "commit": "commit of the shard",
}
DECODE_COUNTER = "decode CPU seconds of the video"
COMMAND_PROCESS = 1
"""In the document; 0 would be taken for an idle processor."""
SECONDS_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledShard:
    """One piece of work of a worker. Its stretches are by the worker's clock, all else by that of the command."""

    worker: WorkerThread
    handed_out_ns: int
    """When it was ready for the cluster; nanoseconds since 1970."""
    received_ns: int
    """When its receipt was in hand."""
    stretches: tuple[Stretch, ...]
    """The last one is the shard's own, which lasted from its beginning to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledCommand:
    """Everything that one command did."""

    began_ns: int
    """Nanoseconds since 1970, by the command's clock."""
    command: WorkerThread
    stretches: tuple[Stretch, ...]
    """Of the command itself."""
    shards: tuple[ProfiledShard, ...]
    busy_ns: Mapping[Track, int]
    """By track, of all workers together, those left out included."""
    left_out: int = 0
    """Stretches within shards that were too many to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """How far a machine's clock is ahead of the command's, as far as it shows in work that went out and came back."""

    at_least_ns: int
    """Else a shard would have ended after its receipt was in hand."""
    at_most_ns: int
    """Else a shard would have begun before it was handed out."""

    @property
    def provable_ns(self) -> int:
        """The least offset that explains what was seen: 0 where the clocks may be the same. A clock that was set meanwhile
        may have bounds that cross; then nothing is made of it.
        """
        if self.at_least_ns > self.at_most_ns:
            return 0
        return min(max(0, self.at_least_ns), self.at_most_ns)


def clock_offset(shards: Sequence[ProfiledShard]) -> ClockOffset:
    """Return the offset of the machine that did these shards, at least one."""
    return ClockOffset(
        at_least_ns=max(shard.stretches[-1].ended_ns - shard.received_ns for shard in shards),
        at_most_ns=min(shard.stretches[-1].began_ns - shard.handed_out_ns for shard in shards),
    )


def profile_document(profiled: ProfiledCommand, *, version: str) -> dict[str, Any]:
    """Return the document; times are microseconds since the command began."""
    hosts = dict.fromkeys(shard.worker.host for shard in profiled.shards)
    offsets = {
        host: clock_offset([shard for shard in profiled.shards if shard.worker.host == host]) for host in sorted(hosts)
    }
    processes = {worker: number for number, worker in enumerate(_workers(profiled), COMMAND_PROCESS + 1)}
    events = [*_names(COMMAND_PROCESS, f"cdlabel {_title(profiled.command)}", ["driver"])]
    events += _events(profiled.stretches, COMMAND_PROCESS, profiled.began_ns)
    for worker, process in processes.items():
        events += _names(process, f"worker {_title(worker)}", [track for track in TRACKS if track != "driver"])
    for shard in profiled.shards:
        zero_ns = profiled.began_ns + offsets[shard.worker.host].provable_ns
        events += _events(shard.stretches, processes[shard.worker], zero_ns)
        events += _decode_counters(shard.stretches, processes[shard.worker], zero_ns)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "cdlabel_version": version,
            "began_at": datetime.fromtimestamp(profiled.began_ns / 1e9, UTC).isoformat(),
            "worker_seconds": {TITLES[track]: _seconds(busy_ns) for track, busy_ns in profiled.busy_ns.items()},
            "left_out": profiled.left_out,
            "clocks": {host: _describe_clock(offset) for host, offset in offsets.items()},
        },
    }


def _workers(profiled: ProfiledCommand) -> list[WorkerThread]:
    workers = {shard.worker for shard in profiled.shards}
    return sorted(workers, key=lambda worker: (worker.host, worker.process_id, worker.thread_id))


def _title(thread: WorkerThread) -> str:
    main = "" if thread.thread_id == thread.process_id else f", thread {thread.thread_id}"
    return f"{thread.host}, process {thread.process_id}{main}"


def _thread(process: int, track: Track) -> int:
    """Return the number of a track: no two in the document are the same, which some viewers need."""
    return process * len(TRACKS) + TRACKS.index(track)


def _names(process: int, title: str, tracks: Sequence[Track]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": title}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}}
    for track in tracks:
        thread = {"ph": "M", "pid": process, "tid": _thread(process, track)}
        yield {**thread, "name": "thread_name", "args": {"name": TITLES[track]}}
        yield {**thread, "name": "thread_sort_index", "args": {"sort_index": TRACKS.index(track)}}


def _events(stretches: Sequence[Stretch], process: int, zero_ns: int) -> Iterator[dict[str, Any]]:
    for stretch in stretches:
        facts = dict(stretch.facts)
        if stretch.joined > 1:
            facts |= {"joined": stretch.joined, "busy_seconds": _seconds(stretch.busy_ns)}
        yield {
            "ph": "X",
            "name": stretch.name,
            "cat": stretch.track,
            "pid": process,
            "tid": _thread(process, stretch.track),
            "ts": (stretch.began_ns - zero_ns) / 1000,
            "dur": stretch.duration_ns / 1000,
            "args": facts,
        }


def _decode_counters(stretches: Sequence[Stretch], process: int, zero_ns: int) -> Iterator[dict[str, Any]]:
    """Yield a curve that holds each video's value as long as the video lasts, and falls to 0 behind the last one."""
    videos = [stretch for stretch in stretches if stretch.track == "video"]
    values = [(video.began_ns, video.facts.get("decode_cpu_seconds", 0.0)) for video in videos]
    if videos:
        values.append((videos[-1].ended_ns, 0.0))
    for at_ns, seconds in values:
        at = {"ph": "C", "name": DECODE_COUNTER, "pid": process, "tid": _thread(process, "video")}
        yield {**at, "ts": (at_ns - zero_ns) / 1000, "args": {"seconds": seconds}}


def _describe_clock(offset: ClockOffset) -> dict[str, float]:
    return {
        "ahead_seconds_at_least": _seconds(offset.at_least_ns),
        "ahead_seconds_at_most": _seconds(offset.at_most_ns),
        "moved_back_seconds": _seconds(offset.provable_ns),
    }


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e9, SECONDS_DECIMALS)
