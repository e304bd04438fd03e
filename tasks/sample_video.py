"""Label one video on a worker, as a run would, for the sake of what it takes; the labels are forgotten.

Or have the student alone look at it, which tells what the teacher would be asked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from cdmodel.budgeted_cascade import cost_of_pass, take_student_pass
from cdmodel.cost import ComputeCost, require_price
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import VideoError
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import PassChooser
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.student_pass import StudentPass
from cdmodel.types import VideoFailure, VideoOutcome, VideoRef
from tasks.label_shard import LabelingSpec, label_or_fail
from tasks.upcoming_videos import UpcomingVideo
from tasks.video_attempt import OpenVideo, attempt_video
from tasks.worker_decoder import open_clips, prepare_decoder
from tasks.worker_models import WorkerModels, load_worker_models

Outcome = TypeVar("Outcome")
NO_VIDEO = VideoRef(video_id="none", uri=os.devnull, video_version="", size_bytes=0)
"""A decoder that was asked for it has loaded all it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredVideo:
    """What labeling one video took."""

    video_id: str
    failed: bool
    cost: ComputeCost
    device: str
    worker: str
    """Host and process that did it."""
    peak_bytes: int
    """The most memory that this worker and its decoder have held so far."""
    core_wait_seconds: float
    """How long they would have gone on but had no core, being more than the machine has or beside other programs."""

    @property
    def on_gpu(self) -> bool:
        """Whether the models ran on a GPU."""
        return self.device != "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutedVideo:
    """What the student's look at one video took, and what it would ask of the teacher."""

    measured: MeasuredVideo
    """Of the student alone; ``dense_teacher_flops`` is filled in."""
    clips_wanted: int
    """Clips that the policy would ask the teacher about."""
    teacher_flops_per_clip: int


def measure_video(video: VideoRef, spec: LabelingSpec) -> MeasuredVideo:
    """Label one video as ``label_shard`` would, keep the cost and forget the labels. A failed video has its cost too.

    Raises:
        BundleError, ConfigError, RunError: as ``label_shard``.
    """
    models = _warm_models(spec.models, spec.limits)
    require_price(spec.prices, models.device_name)

    def label() -> VideoOutcome:
        upcoming = UpcomingVideo(video, _passes(spec.launch_id).settle(), None)
        return label_or_fail(upcoming, models, spec, killed_worker=False)

    outcome, core_wait_seconds = _watched(label)
    return _measured(video, outcome.cost, models, core_wait_seconds, failed=isinstance(outcome, VideoFailure))


def scout_video(video: VideoRef, spec: LabelingSpec) -> ScoutedVideo:
    """Have the student look at one video and nobody else, keep the cost and what the teacher would be asked.

    Only for policies that ask the teacher once, after the student.

    Raises:
        BundleError, ConfigError, RunError: as ``label_shard``.
    """
    models = _warm_models(spec.models, spec.limits)
    require_price(spec.prices, models.device_name)

    def look(open_video: OpenVideo) -> StudentPass:
        with open_video() as clips:
            return take_student_pass(video, clips, models, spec.cascade)

    def attempt() -> StudentPass | VideoFailure:
        return attempt_video(video, look, models, spec.sampling, spec.limits, killed_worker=False)

    outcome, core_wait_seconds = _watched(attempt)
    per_clip = models.teacher.flops_per_clip
    if isinstance(outcome, VideoFailure):
        cost, wanted = outcome.cost, 0
    else:
        dense = ComputeCost(dense_teacher_flops=per_clip * len(outcome.spans))
        cost, wanted = cost_of_pass(outcome) + dense, int(outcome.wanted_N.sum())
    failed = isinstance(outcome, VideoFailure)
    return ScoutedVideo(
        measured=_measured(video, cost, models, core_wait_seconds, failed=failed),
        clips_wanted=wanted,
        teacher_flops_per_clip=per_clip,
    )


def _watched(work: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """Return what the work gives, and for how many seconds it was without a core."""
    waited = _core_wait_seconds()
    outcome = work()
    return outcome, max(_core_wait_seconds() - waited, 0.0)


def _measured(
    video: VideoRef, cost: ComputeCost, models: CascadeModels, core_wait_seconds: float, *, failed: bool
) -> MeasuredVideo:
    return MeasuredVideo(
        video_id=video.video_id,
        failed=failed,
        cost=cost,
        device=models.device_name,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        peak_bytes=sum(_peak_bytes(process_id) for process_id in _own_processes()),
        core_wait_seconds=core_wait_seconds,
    )


@lru_cache(maxsize=1)
def _warm_models(wanted: WorkerModels, limits: DecodeLimits) -> CascadeModels:
    """Get this process ready, as it is for all videos but the first of a run: models loaded and used, decoder started."""
    prepare_decoder(limits)
    models = load_worker_models(wanted)
    with suppress(VideoError), open_clips(NO_VIDEO, ClipSampling(), limits):
        pass
    models.student.score(_blank_clip(models.student.geometry))
    models.teacher.score(_blank_clip(models.teacher.geometry))
    return models


def _blank_clip(geometry: ClipGeometry) -> NDArray[np.uint8]:
    return np.zeros((1, geometry.frames, 3, geometry.height, geometry.width), dtype=np.uint8)


@lru_cache(maxsize=1)
def _passes(launch_id: str) -> PassChooser:
    """Return what this process has learned of the videos so far, as it would within a shard."""
    return PassChooser()


def _own_processes() -> list[int]:
    """Return the ids of this process and of its decoders."""
    return [os.getpid(), *(child.pid for child in psutil.Process().children())]


def _peak_bytes(process_id: int) -> int:
    """Return the most memory that a process has held; what it holds now where the system does not remember."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _core_wait_seconds() -> float:
    """Return how long the threads of our processes were ready and had no core; 0 where the system does not say.

    Source: Linux, Documentation/scheduler/sched-stats.rst, the second figure of /proc/<pid>/schedstat.
    """
    waited = 0
    for process_id in _own_processes():
        for thread in Path(f"/proc/{process_id}/task").glob("*/schedstat"):
            with suppress(OSError, IndexError):  # a thread may end meanwhile
                waited += int(thread.read_text(encoding="ascii").split()[1])
    return waited / 1e9
