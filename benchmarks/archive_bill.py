"""What an archive costs on paper: hours, requests, dollars and nights, and how far each part of the design carries.

Pure arithmetic on what was measured, simulated or handed in; which figure is which stands beside it. Prices are from lists and
are to be replaced by one's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from run_simulation import Archive, SimulatedRun, WorkerSeconds

from cdmodel.cost import SECONDS_PER_HOUR
from cdmodel.types import Shard
from storage.drivers import SINGLE_PUT_BYTES
from storage.read_ahead import ReadAhead

GIB = 2**30
NAMES_PER_LISTING = 1000
"""Objects that S3 tells in one request."""
Origin = Literal["measured", "simulated", "assumed", "arithmetic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrices:
    """US dollars."""

    gpu_hour: float = 4.54
    """H200 on demand with its share of a machine; Spheron, 2026-03-17. Large clouds ask about twice as much."""
    put_thousand: float = 0.005
    """S3 Standard, us-east-1, PUT and LIST, by the list of 2025."""
    get_thousand: float = 0.0004
    """The same, GET and HEAD."""
    gib_month: float = 0.023


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What ``bench_scale.py`` measured at two sizes, continued as a power of the number of videos, or as a line."""

    videos: tuple[int, int]
    values: tuple[float, float]

    def as_power(self, videos: int) -> float:
        """Return the value where it grows as a power."""
        (small, large), (low, high) = self.videos, self.values
        return high * (videos / large) ** (math.log(high / low) / math.log(large / small))

    def as_line(self, videos: int) -> float:
        """Return the value where it grows by the video."""
        return self.values[1] + (videos - self.videos[1]) * self.slope

    @property
    def slope(self) -> float:
        """Return what each video adds."""
        return (self.values[1] - self.values[0]) / (self.videos[1] - self.videos[0])


# docs/experiments.md, 2026-11-25: bench_scale.py on two cores.
PLANNING_CPU_SECONDS = Growth(videos=(100_000, 1_000_000), values=(1.415, 18.469))
PLANNING_MIB = Growth(videos=(100_000, 1_000_000), values=(447, 1059))
RESUMING_CPU_SECONDS = Growth(videos=(100_000, 1_000_000), values=(0.604, 5.24))
PUBLISHING_CPU_SECONDS = Growth(videos=(100_000, 1_000_000), values=(11.173, 41.261))
CLIPS_PER_VIDEO_PUBLISHED = 5
"""Of the rows that were published there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured here, and does not follow from the model."""

    dispatch_seconds: float
    """Of client and scheduler for a shard of 512 videos, a thousand being out."""
    plan_bytes_per_video: float
    listed_bytes_per_object: float
    """Of memory, for a name in the listing of a folder and its place among the attempts."""
    published_bytes_per_clip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """Some shards of the archive, and a simulated run over copies of them."""

    archive: Archive
    shards: Sequence[Shard]
    known: Mapping[str, WorkerSeconds]
    run: SimulatedRun
    """Over as many videos as its workers label in a night."""
    workers: int
    efficiency: float

    @property
    def videos_per_shard(self) -> float:
        """The mean."""
        return len(self.archive.videos) / len(self.shards)

    @property
    def mean_shard_seconds(self) -> float:
        """Of an undisturbed worker."""
        return sum(known.with_look_ahead for known in self.known.values()) / len(self.known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the bill."""

    name: str
    value: float
    unit: str
    origin: Origin


def bill(
    videos: int, night: Night, prices: ListPrices, measured: Measured, *, night_hours: float, workers_per_gpu: int
) -> Iterator[Figure]:
    """Yield what labeling so many videos like those of the night takes."""
    each = len(night.archive.videos)
    shards = math.ceil(videos / night.videos_per_shard)
    works = night.archive.work.values()
    clips = sum(work.clips for work in works) / each * videos
    worker_hours = shards * night.mean_shard_seconds / night.efficiency / SECONDS_PER_HOUR
    gpu_hours = worker_hours / workers_per_gpu
    busy = sum(work.student_seconds + work.teacher_seconds for work in works) / each * videos / SECONDS_PER_HOUR
    decoding = sum(work.decode_seconds + work.teacher_decode_seconds for work in works) / each * videos
    attempts = shards * night.run.attempts / len(night.run.committed)
    entries = shards * night.run.entries / len(night.run.committed)
    gets = sum(reads_of(video.size_bytes or 0) for video in night.archive.videos) / each * videos
    # A look whether the shard stands; publishing reads each object, and its footer when it is committed twice.
    gets += attempts + shards
    # The attempt before it begins lists earlier ones; then its entries, and the shard's object.
    puts = attempts + entries + shards + (entries + 2 * shards) / NAMES_PER_LISTING
    stored_gib = clips * measured.published_bytes_per_clip * 2 / GIB
    usd = {
        "machines with a GPU": gpu_hours * prices.gpu_hour,
        "requests": puts / 1000 * prices.put_thousand + gets / 1000 * prices.get_thousand,
        "a month of rows": stored_gib * prices.gib_month,
    }
    yield Figure(name="clips", value=clips, unit="clips", origin="arithmetic")
    yield Figure(name="shards", value=shards, unit="objects", origin="arithmetic")
    yield Figure(name="GPU hours held", value=gpu_hours, unit="hours", origin="simulated")
    yield Figure(name="GPU busy", value=busy, unit="hours", origin="assumed")
    yield Figure(name="GPU busy share", value=busy / gpu_hours, unit="of held", origin="simulated")
    yield Figure(name="decoding", value=decoding / SECONDS_PER_HOUR, unit="core hours", origin="measured")
    yield Figure(name="nights", value=worker_hours / night.workers / night_hours, unit="nights", origin="simulated")
    yield Figure(name="entries of the log of attempts", value=entries, unit="objects", origin="simulated")
    yield Figure(name="PUT and LIST", value=puts, unit="requests", origin="simulated")
    yield Figure(name="GET and HEAD", value=gets, unit="requests", origin="simulated")
    yield Figure(name="rows, shards and table", value=stored_gib, unit="GiB", origin="measured")
    for what, dollars in usd.items():
        yield Figure(name=f"dollars: {what}", value=dollars, unit="USD by list", origin="simulated")
    yield Figure(name="dollars", value=sum(usd.values()), unit="USD by list", origin="simulated")
    blamed = shards * night.run.videos_blamed / len(night.run.committed)
    yield Figure(name="videos blamed for preemptions", value=blamed, unit="videos", origin="simulated")


def reads_of(video_bytes: int, settings: ReadAhead = ReadAhead()) -> int:  # noqa: B008 - frozen
    """Return the requests for a video that is read from front to back."""
    if video_bytes <= settings.whole_file_bytes:
        return 1
    requests, left, ahead = 0, video_bytes, settings.first_bytes
    while left > 0:
        requests, left, ahead = requests + 1, left - ahead, min(2 * ahead, settings.most_bytes)
    return requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A part of the design at the archive's size, and where it ends."""

    part: str
    value: float
    unit: str
    most: float
    """What a machine, a store or a night allows."""
    reached_at: float
    """Number of videos, or of workers."""
    of: Literal["videos", "workers"]
    origin: Origin


def limits(videos: int, night: Night, measured: Measured, *, memory_gib: float, hours: float) -> tuple[Limit, ...]:
    """Return the parts of the design, the one that ends first in front.

    Args:
        videos: of the archive.
        night: that was simulated.
        measured: beside the model.
        memory_gib: of the machine that plans and publishes.
        hours: that planning or publishing may take.
    """
    entries_per_video = night.run.entries / len(night.run.committed) / night.videos_per_shard
    clips_per_video = sum(work.clips for work in night.archive.work.values()) / len(night.archive.videos)
    planning_gib, planning_hours = PLANNING_MIB.as_line(videos) / 1024, _hours(PLANNING_CPU_SECONDS, videos)
    # Rows weigh by their clips; what was published had few.
    publishing_seconds = PUBLISHING_CPU_SECONDS.as_line(videos) * max(clips_per_video / CLIPS_PER_VIDEO_PUBLISHED, 1.0)
    publishing_hours = publishing_seconds / SECONDS_PER_HOUR
    listing_gib = videos * entries_per_video * measured.listed_bytes_per_object / GIB
    plan_gib = videos * measured.plan_bytes_per_video / GIB
    shards_per_second = night.workers / night.mean_shard_seconds
    most_shards_per_second = 1.0 / measured.dispatch_seconds
    entries_per_second = shards_per_second * night.run.entries / len(night.run.committed)
    found = (
        _of_videos("planning: memory", planning_gib, "GiB", memory_gib, videos, "arithmetic"),
        _of_videos("planning: time", planning_hours, "hours on one core", hours, videos, "arithmetic"),
        _of_videos("planning: the plan is one request", plan_gib, "GiB", SINGLE_PUT_BYTES / GIB, videos, "measured"),
        _of_videos("publishing: the log of attempts in memory", listing_gib, "GiB", memory_gib, videos, "simulated"),
        _of_videos("publishing: time", publishing_hours, "hours on one core", hours, videos, "arithmetic"),
        _of_workers("dispatching", shards_per_second, "shards/s", most_shards_per_second, night, "measured"),
        _of_workers("log of attempts", entries_per_second, "PUT/s to one prefix", 3500.0, night, "simulated"),
    )
    return tuple(sorted(found, key=lambda limit: limit.most / limit.value))


def _hours(growth: Growth, videos: int) -> float:
    return growth.as_power(videos) / SECONDS_PER_HOUR


def _of_videos(part: str, value: float, unit: str, most: float, videos: int, origin: Origin) -> Limit:
    return Limit(
        part=part,
        value=value,
        unit=unit,
        most=most,
        reached_at=videos * most / value,
        of="videos",
        origin=origin,
    )


def _of_workers(part: str, value: float, unit: str, most: float, night: Night, origin: Origin) -> Limit:
    return Limit(
        part=part,
        value=value,
        unit=unit,
        most=most,
        reached_at=night.workers * most / value,
        of="workers",
        origin=origin,
    )
