"""From a bundle's raw answers to what the gate compares: its default setting replayed, and each of its models alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdmodel.evaluation import PLAIN_MEAN, Subject
from cdmodel.gate_facts import SideAnswers
from cdmodel.policies import DenseStudent, DenseTeacher
from cdmodel.replay import CachedVideo, ReplayBench, calibrate, replay


def replay_side(videos: Sequence[CachedVideo], subject: Subject) -> SideAnswers:
    """Replay the default and both models alone on videos, in their order; a live run would have answered the same."""
    if not videos:
        return _nothing()
    scored = [calibrate(video, subject.calibration, subject.label_kind) for video in videos]
    default = ReplayBench(scored, subject.judge, subject.flops).replay(subject.policy)
    student = replay(DenseStudent(), subject.judge, scored, subject.flops)
    dense = replay(DenseTeacher(), subject.judge_with(PLAIN_MEAN), scored, subject.flops)
    return SideAnswers(
        right_V=default.right_V,
        confidence_V=default.probabilities_VK.max(axis=1),
        flops_V=default.flops_V,
        student_right_V=student.right_V,
        dense_right_V=dense.right_V,
        dense_confidence_V=dense.probabilities_VK.max(axis=1),
        dense_flops_V=dense.flops_V,
    )


def _nothing() -> SideAnswers:
    no_answers, no_figures = np.empty(0, dtype=np.bool_), np.empty(0)
    return SideAnswers(
        right_V=no_answers,
        confidence_V=no_figures,
        flops_V=no_figures,
        student_right_V=no_answers,
        dense_right_V=no_answers,
        dense_confidence_V=no_figures,
        dense_flops_V=no_figures,
    )
