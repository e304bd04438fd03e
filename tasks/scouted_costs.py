"""What a run will ask of the teacher, from a look of the student at many videos and the teacher's at few of them.

Two-phase sampling (Cochran, Sampling Techniques, 3rd ed. 1977, 12.9): how many clips the teacher is asked about varies from
video to video, and is told by the student; what such a clip takes hardly varies, and is told by a few videos. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cdmodel.cost import ComputeCost
from tasks.sample_video import MeasuredVideo, ScoutedVideo

SCOUTED_PER_LABELED = 8
"""Videos that the student looks at for each one that the teacher labels too."""
_PACED = ("decode_cpu_seconds", "teacher_seconds", "gpu_seconds", "wall_seconds")
"""Costs of the teacher's clips that have to be measured; its FLOPs are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherPace:
    """What one clip of the teacher takes on top of the student's look at its video."""

    decode_cpu_seconds: float = 0.0
    teacher_seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    core_wait_seconds: float = 0.0


def choose_labeled(scouted: Sequence[ScoutedVideo], sample: int, seed: int) -> frozenset[str]:
    """Return the ids of at most ``sample`` videos, at random, of those that the teacher would be asked about."""
    escalated = sorted(one.measured.video_id for one in scouted if one.clips_wanted)
    if len(escalated) <= sample:
        return frozenset(escalated)
    return frozenset(np.random.default_rng(seed).choice(escalated, sample, replace=False).tolist())


def measure_pace(scouted: Sequence[ScoutedVideo], labeled: Mapping[str, MeasuredVideo]) -> TeacherPace:
    """Return what a clip of the teacher takes, by the videos that were labeled too; zeros where none was."""
    pairs = [
        (one.measured, labeled[one.measured.video_id], one.clips_wanted)
        for one in scouted
        if one.measured.video_id in labeled and not labeled[one.measured.video_id].failed
    ]
    clips = sum(wanted for _, _, wanted in pairs)
    if not clips:
        return TeacherPace()

    def per_clip(name: str) -> float:
        added: float = sum(getattr(whole.cost, name) - getattr(part.cost, name) for part, whole, _ in pairs)
        return max(added, 0.0) / clips

    waited = max(sum(whole.core_wait_seconds - part.core_wait_seconds for part, whole, _ in pairs), 0.0) / clips
    return TeacherPace(**{name: per_clip(name) for name in _PACED}, core_wait_seconds=waited)


def with_teacher(
    scouted: Sequence[ScoutedVideo], labeled: Mapping[str, MeasuredVideo], share: float = 1.0
) -> list[MeasuredVideo]:
    """Return what each scouted video takes when the teacher is asked about ``share`` of the clips that the policy wants.

    The memory is that of the video's labeling where it was labeled.
    """
    pace = measure_pace(scouted, labeled)
    return [_add_teacher(one, labeled.get(one.measured.video_id), pace, share) for one in scouted]


def _add_teacher(one: ScoutedVideo, labeled: MeasuredVideo | None, pace: TeacherPace, share: float) -> MeasuredVideo:
    clips = one.clips_wanted * share
    added = ComputeCost(
        teacher_flops=round(clips * one.teacher_flops_per_clip),
        **{name: clips * getattr(pace, name) for name in _PACED},
    )
    return replace(
        one.measured,
        cost=one.measured.cost + added,
        core_wait_seconds=one.measured.core_wait_seconds + clips * pace.core_wait_seconds,
        peak_bytes=max(one.measured.peak_bytes, labeled.peak_bytes if labeled else 0),
    )
