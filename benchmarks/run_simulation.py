"""A labeling run as a discrete-event model, in two levels: a worker's pipeline over a shard, and a cluster of workers.

``Pipeline`` follows one worker event by event, as docs/throughput.md describes it: decoders at the video at hand and at those
ahead, three slots of 16 clips each, models that take one video at a time, the teacher behind the student, all on the cores of
one machine. ``simulate`` follows a run: shards are handed out in the order of the plan, a worker that is preempted loses what
it has of its shard, the next attempt begins anew and, as ``storage.attempt_log`` has it, one video at a time, naming each.
Where every worker has a machine of its own the cluster needs of a shard no more than its seconds: ``KnownSeconds`` holds
them, found by running the pipeline alone, so that hundreds of workers over a night are thousands of events and not billions.

It knows nothing of prices, and measures nothing: rates are handed in. The same seed gives the same run.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import simpy

from cdmodel.cost import SECONDS_PER_HOUR
from cdmodel.types import Shard, VideoRef
from storage.attempt_log import SECONDS_BETWEEN_ENTRIES

CLIPS_PER_BATCH, SLOTS = 16, 3
DEATHS_PER_ROUND = 3
"""Workers that a shard kills before it waits for the next round: Dask's ``allowed-failures`` of ``flows.dispatch`` and one."""
Events = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoWork:
    """What one video asks of a worker."""

    clips: int
    clips_teacher: int
    decode_seconds: float
    """CPU time of the pass over all clips."""
    teacher_decode_seconds: float
    """CPU time of reading the teacher's clips, once the student has seen all."""
    student_seconds: float
    teacher_seconds: float
    hand_over_seconds: float = 0.0
    """CPU time of the worker beside its models: processes, messages, rows."""
    wait_seconds: float = 0.0
    """Of its decoder for the store, or for a video that hangs; takes no core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRates:
    """How the length of a video and what the teacher sees of it become seconds."""

    decode_seconds_per_video: float
    decode_seconds_per_clip: float
    teacher_decode_seconds_per_video: float
    """Of a video that has clips for the teacher."""
    teacher_decode_seconds_per_clip: float
    student_seconds_per_video: float
    student_seconds_per_clip: float
    teacher_seconds_per_video: float
    """Of a video that has clips for the teacher."""
    teacher_seconds_per_clip: float
    hand_over_seconds: float

    def work(self, clips: int, clips_teacher: int, wait_seconds: float = 0.0) -> VideoWork:
        """Return what a video of so many clips asks."""
        asked = 1 if clips_teacher else 0
        return VideoWork(
            clips=clips,
            clips_teacher=clips_teacher,
            decode_seconds=self.decode_seconds_per_video + clips * self.decode_seconds_per_clip,
            teacher_decode_seconds=asked * self.teacher_decode_seconds_per_video
            + clips_teacher * self.teacher_decode_seconds_per_clip,
            student_seconds=self.student_seconds_per_video + clips * self.student_seconds_per_clip,
            teacher_seconds=asked * self.teacher_seconds_per_video + clips_teacher * self.teacher_seconds_per_clip,
            hand_over_seconds=self.hand_over_seconds,
            wait_seconds=wait_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveShape:
    """The distribution that an archive's videos are drawn from: lognormal lengths, so that few are long."""

    median_seconds: float = 60.0
    spread: float = 1.0
    """Standard deviation of the logarithm of the length."""
    longest_seconds: float = 4 * SECONDS_PER_HOUR
    clip_seconds: float = 1.0
    bytes_per_second: float = 1.0e6 / 8
    teacher_share: float = 0.1
    """Of the clips; each clip by itself."""
    hanging_share: float = 0.0
    """Of the videos: their decoders are killed after ``stall_seconds``."""
    stall_seconds: float = 120.0
    request_seconds: float = 0.03
    bytes_per_second_read: float = 100e6
    """Of the store, to one decoder."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Videos, and what each asks of a worker, by its id."""

    videos: tuple[VideoRef, ...]
    work: Mapping[str, VideoWork]


def draw_archive(shape: ArchiveShape, rates: VideoRates, videos: int, seed: int) -> Archive:
    """Draw an archive of so many videos."""
    random = np.random.default_rng(seed)
    lengths_V = np.minimum(
        random.lognormal(math.log(shape.median_seconds), shape.spread, videos), shape.longest_seconds
    )
    clips_V = np.maximum(np.round(lengths_V / shape.clip_seconds), 1).astype(np.int64)
    teacher_V = random.binomial(clips_V, shape.teacher_share)
    bytes_V = np.round(lengths_V * shape.bytes_per_second).astype(np.int64)
    waits_V = shape.request_seconds + bytes_V / shape.bytes_per_second_read
    waits_V[random.random(videos) < shape.hanging_share] += shape.stall_seconds
    refs = tuple(
        VideoRef(
            video_id=f"{number:09d}", uri=f"s3://archive/{number:09d}.mp4", video_version="1", size_bytes=int(size)
        )
        for number, size in enumerate(bytes_V)
    )
    drawn = zip(refs, clips_V, teacher_V, waits_V, strict=True)
    return Archive(refs, {ref.video_id: rates.work(int(n), int(k), float(wait)) for ref, n, k, wait in drawn})


class Processor:
    """Cores that processes take turns on."""

    def __init__(
        self, env: simpy.Environment, cores: int, *, others: float = 0.0, slice_seconds: float = math.inf
    ) -> None:
        """Start it.

        Args:
            env: whose clock counts.
            cores: of the machine.
            others: cores that other programs take, whoever else is waiting.
            slice_seconds: how long a process keeps a core while others wait for one; infinite where none ever wait.
        """
        taken = min(others, cores - 0.1)
        self._env, self._slice = env, slice_seconds
        self._cores = simpy.PriorityResource(env, cores - int(taken))
        if taken % 1.0 and slice_seconds < math.inf:
            env.process(self._be_others(taken % 1.0))

    def compute(self, seconds: float) -> Events:
        """Take so many CPU seconds, on one core at a time."""
        while seconds > 0:
            turn = min(seconds, self._slice)
            with self._cores.request(priority=1) as core:
                yield core
                yield self._env.timeout(turn)
            seconds -= turn

    def _be_others(self, share: float) -> Events:
        taken = 0.0
        while True:
            yield self._env.timeout((1.0 - share) * self._slice)
            with self._cores.request(priority=0) as core:
                yield core
                # As much as makes it their share by then, having waited for the core.
                turn = (share * self._env.now - taken) / (1.0 - share)
                yield self._env.timeout(turn)
            taken += turn


class Labor(Protocol):
    """What a worker does with a shard."""

    def label(self, shard: Shard, *, one_by_one: bool) -> Events:
        """Label all videos; ``one_by_one`` where a worker has died at this shard."""
        ...


class Pipeline:
    """A worker's decoders and models, event by event."""

    def __init__(
        self,
        env: simpy.Environment,
        work: Mapping[str, VideoWork],
        cores: Processor,
        *,
        models_on: Processor | None = None,
        videos_ahead: int = 1,
    ) -> None:
        """Build it; workers of one machine share ``cores``. ``models_on`` is a GPU, where there is one."""
        self._env, self._work, self._cores, self._ahead = env, work, cores, videos_ahead
        self._device = cores if models_on is None else models_on

    def label(self, shard: Shard, *, one_by_one: bool) -> Events:
        """Label the videos in their order, the next ones being decoded meanwhile."""
        decoders: list[simpy.Process] = []
        begun: deque[tuple[VideoWork, simpy.Store]] = deque()
        ahead = 0 if one_by_one else self._ahead
        try:
            for position in range(len(shard.videos) + ahead):
                if position < len(shard.videos):
                    work = self._work[shard.videos[position].video_id]
                    begun.append((work, self._decode(decoders, work.decode_seconds, work.clips, work.wait_seconds)))
                if position >= ahead and begun:
                    yield from self._score(decoders, *begun.popleft())
        finally:  # a worker that is preempted takes its decoders with it
            for decoder in decoders:
                if decoder.is_alive:
                    decoder.interrupt()

    def _score(self, decoders: list[simpy.Process], work: VideoWork, slots: simpy.Store) -> Events:
        yield from self._cores.compute(work.hand_over_seconds)
        yield from self._run_model(slots, work.clips, work.student_seconds)
        if work.clips_teacher:
            slots = self._decode(decoders, work.teacher_decode_seconds, work.clips_teacher, 0.0)
            yield from self._run_model(slots, work.clips_teacher, work.teacher_seconds)

    def _run_model(self, slots: simpy.Store, clips: int, seconds: float) -> Events:
        for batch in _batches(clips):
            yield slots.get()
            yield from self._device.compute(seconds * batch / clips)

    def _decode(self, decoders: list[simpy.Process], seconds: float, clips: int, wait_seconds: float) -> simpy.Store:
        """Begin to decode; a decoder waits while its slots are full."""
        slots = simpy.Store(self._env, SLOTS)
        decoders.append(self._env.process(self._fill(slots, seconds, clips, wait_seconds)))
        return slots

    def _fill(self, slots: simpy.Store, seconds: float, clips: int, wait_seconds: float) -> Events:
        try:
            yield self._env.timeout(wait_seconds)
            for batch in _batches(clips):
                yield from self._cores.compute(seconds * batch / clips)
                yield slots.put(batch)
        except simpy.Interrupt:
            return


def _batches(clips: int) -> list[int]:
    return [min(CLIPS_PER_BATCH, clips - start) for start in range(0, clips, CLIPS_PER_BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeconds:
    """What an undisturbed worker takes for a shard."""

    with_look_ahead: float
    one_by_one: float


class KnownSeconds:
    """The same as a pipeline on a machine of its own, once that is known."""

    def __init__(self, env: simpy.Environment, seconds: Mapping[str, WorkerSeconds]) -> None:
        self._env, self._seconds = env, seconds

    def label(self, shard: Shard, *, one_by_one: bool) -> Events:
        """Let the time pass that the shard takes."""
        known = self._seconds[shard.shard_id]
        yield self._env.timeout(known.one_by_one if one_by_one else known.with_look_ahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one worker has for itself."""

    cores: int = 16
    has_gpu: bool = True
    videos_ahead: int = 8


def seconds_alone(shard: Shard, work: Mapping[str, VideoWork], machine: Machine, *, one_by_one: bool) -> float:
    """Return how long a worker is at a shard if nothing disturbs it."""
    env = simpy.Environment()
    gpu = Processor(env, 1) if machine.has_gpu else None
    pipeline = Pipeline(env, work, Processor(env, machine.cores), models_on=gpu, videos_ahead=machine.videos_ahead)
    env.run(until=env.process(pipeline.label(shard, one_by_one=one_by_one)))
    return float(env.now)


def know(shards: Sequence[Shard], work: Mapping[str, VideoWork], machine: Machine) -> dict[str, WorkerSeconds]:
    """Return what each shard takes on a machine of its own, by its id."""
    return {
        shard.shard_id: WorkerSeconds(
            with_look_ahead=seconds_alone(shard, work, machine, one_by_one=False),
            one_by_one=seconds_alone(shard, work, machine, one_by_one=True),
        )
        for shard in shards
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """A cluster, and what happens to it."""

    workers: int
    launch_seconds: float = 0.0
    """From the command until the first worker may start: Prefect, the plan, the cluster."""
    start_seconds: float = 0.0
    """Of every worker, its models included."""
    dispatch_seconds: float = 0.0
    """Of client and scheduler for a shard; one shard at a time, whoever waits."""
    shard_seconds: float = 0.0
    """Of a worker for a shard beside its videos: look-up, log of attempts, commit."""
    finish_seconds: float = 0.0
    """From the last commit on: publishing and reporting."""
    preemptions_per_worker_hour: float = 0.0
    notice_seconds: float = 0.0
    """Until the scheduler knows that a worker is gone."""
    replacement_seconds: float = 0.0
    """Until another one is there in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """How a run went."""

    wall_seconds: float
    labeling_seconds: float
    """From the first worker's start until the last commit."""
    held_seconds: float
    """Of all workers, from their start until they are preempted or the last shard is committed."""
    committed: tuple[str, ...]
    """Ids of shards, in the order of their commits."""
    preemptions: int
    attempts: int
    entries: int
    """Objects of the log of attempts, but for those that name a video."""
    videos_blamed: int
    """Labeled as ``worker_killed``: they were named when the second worker or a later one died at their shard."""


def simulate(
    shards: Sequence[Shard], labor_in: Callable[[simpy.Environment], Labor], settings: RunSettings, seed: int = 0
) -> SimulatedRun:
    """Follow a run over the shards, in their order; a shard's videos are labeled by ``labor_in(clock)``."""
    env = simpy.Environment()
    run = _Run(env, shards, labor_in(env), settings, np.random.default_rng(seed))
    outcome = env.run(until=env.process(run.follow()))
    assert isinstance(outcome, SimulatedRun)
    return outcome


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A shard to be handed out; the lowest turn goes first."""

    turn: int
    number: int
    """Of the shard, in the plan."""


class _Run:
    def __init__(
        self,
        env: simpy.Environment,
        shards: Sequence[Shard],
        labor: Labor,
        settings: RunSettings,
        random: np.random.Generator,
    ) -> None:
        self._env, self._shards, self._labor, self._settings, self._random = env, shards, labor, settings, random
        self._scheduler = simpy.Resource(env, 1)
        self._queue = simpy.PriorityStore(env)
        self._queue.items.extend(_Waiting(number, number) for number in range(len(shards)))
        self._labeled = env.event()
        self._deaths: Counter[int] = Counter()
        self._committed: list[str] = []
        self._held_seconds = 0.0
        self._held_since: dict[int, float] = {}
        self._preemptions = self._attempts = self._entries = self._blamed = 0

    def follow(self) -> Generator[simpy.Event, Any, SimulatedRun]:
        settings = self._settings
        yield self._env.timeout(settings.launch_seconds)
        for place in range(settings.workers):
            self._env.process(self._keep_a_worker(place))
        if self._shards:
            yield self._labeled
        labeled_at = self._env.now
        yield self._env.timeout(settings.finish_seconds)
        return SimulatedRun(
            wall_seconds=self._env.now,
            labeling_seconds=labeled_at - settings.launch_seconds,
            held_seconds=self._held_seconds + sum(labeled_at - began for began in self._held_since.values()),
            committed=tuple(self._committed),
            preemptions=self._preemptions,
            attempts=self._attempts,
            entries=self._entries,
            videos_blamed=self._blamed,
        )

    def _keep_a_worker(self, place: int) -> Events:
        """Hold one worker after another until all is labeled."""
        rate = self._settings.preemptions_per_worker_hour / SECONDS_PER_HOUR
        while True:
            self._held_since[place] = self._env.now
            worker = self._env.process(self._serve())
            preempted = self._env.timeout(self._random.exponential(1.0 / rate)) if rate else self._env.event()
            yield self._labeled | preempted
            if self._labeled.triggered:
                return
            self._preemptions += 1
            self._held_seconds += self._env.now - self._held_since.pop(place)
            worker.interrupt()
            yield self._env.timeout(self._settings.replacement_seconds)

    def _serve(self) -> Events:
        """Be a worker, until preempted."""
        waiting: _Waiting | None = None
        began: float | None = None
        asked: simpy.Event | None = None
        try:
            yield self._env.timeout(self._settings.start_seconds)
            while True:
                waiting, began = None, None
                asked = self._queue.get()
                waiting = yield asked
                with self._scheduler.request() as turn:
                    yield turn
                    yield self._env.timeout(self._settings.dispatch_seconds)
                began = self._env.now
                yield from self._attempt(waiting.number)
        except simpy.Interrupt:
            if waiting is None and asked is not None:
                waiting = _withdraw(self._queue, asked)
            if waiting is not None:
                self._env.process(self._hand_back(waiting, began))

    def _attempt(self, number: int) -> Events:
        shard, began = self._shards[number], self._env.now
        self._attempts += 1
        yield self._env.timeout(self._settings.shard_seconds)
        yield from self._labor.label(shard, one_by_one=self._deaths[number] > 0)
        self._entries += 1 + int((self._env.now - began) // SECONDS_BETWEEN_ENTRIES)
        self._committed.append(shard.shard_id)
        if len(self._committed) == len(self._shards):
            self._labeled.succeed()

    def _hand_back(self, waiting: _Waiting, began: float | None) -> Events:
        """Give another worker the shard of one that died, once that is known."""
        lost_at = self._env.now
        yield self._env.timeout(self._settings.notice_seconds)
        if began is not None:
            self._entries += 1 + int((lost_at - began) // SECONDS_BETWEEN_ENTRIES)
            # From the second attempt on videos are named before they are begun.
            self._blamed += self._deaths[waiting.number] > 0
            self._deaths[waiting.number] += 1
        rounds_later = self._deaths[waiting.number] // DEATHS_PER_ROUND * len(self._shards)
        self._queue.put(replace(waiting, turn=waiting.number + rounds_later))


def _withdraw(queue: simpy.PriorityStore, asked: simpy.Event) -> _Waiting | None:
    """Take back a question to the queue; return what was answered in the same instant."""
    if asked.triggered:
        return asked.value
    asked.cancel()
    return None
