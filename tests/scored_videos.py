"""Videos as if both models had scored them: the teacher is right more often, the student knows some of its own limits."""

from __future__ import annotations

import numpy as np

from cdmodel.calibration import Calibration
from cdmodel.labels import to_truth
from cdmodel.replay import CachedVideo, ClipFlops, VideoSeconds
from cdmodel.sampling import ClipSampling
from cdmodel.score_entry import ScoredEntry, ScoringContext
from cdmodel.scores import StudentLogits
from cdmodel.types import ClipSpan, LabeledVideo, Split, VideoRef

LABELS = ("bend", "jump", "run", "sit", "turn", "wave")


def scored_entry(number: int, split: Split, *, seed: int = 0, labels: tuple[str, ...] = LABELS) -> ScoredEntry:
    """Return one video; the same number, split and seed give the same video."""
    random = np.random.default_rng((seed, number, ("cal", "test", "risk", "train", "conf").index(split)))
    clips, label = int(random.integers(1, 12)), int(random.integers(len(labels)))
    shows_N = random.random(clips) < 0.6
    hard = random.random() < 0.35
    teacher_NK = random.normal(size=(clips, len(labels))).astype(np.float32)
    student_NK = random.normal(size=(clips, len(labels))).astype(np.float32)
    teacher_NK[shows_N, label] += 3.0
    student_NK[shows_N, label] += 0.8 if hard else 2.6
    video_id = f"{split}-{number:04d}"
    return ScoredEntry(
        video=LabeledVideo(
            video=VideoRef(video_id=video_id, uri=f"/v/{video_id}.mp4", video_version="1", size_bytes=10),
            labels=(labels[label],),
            group=f"{split}-{number // 2}",
            split=split,
        ),
        duration_seconds=float(clips) + 0.25,
        spans=tuple(ClipSpan(start_seconds=float(i), end_seconds=i + 1.0) for i in range(clips)),
        answers=CachedVideo(
            video_id=video_id,
            group=f"{split}-{number // 2}",
            truth_K=to_truth([[label]], len(labels))[0],
            student=StudentLogits(
                logits_NK=student_NK,
                q_teacher_logit_N=(np.where(shows_N, 1.8, -0.8) + random.normal(size=clips)).astype(np.float32),
                q_student_logit_N=(np.where(shows_N & (not hard), 1.5, -1.0) + random.normal(size=clips)).astype(
                    np.float32
                ),
                motion_N=random.random(clips).astype(np.float32),
            ),
            teacher_logits_NK=teacher_NK,
            seconds=VideoSeconds(
                decode_student=0.004 * clips, decode_teacher=0.006 * clips, student=0.002 * clips, teacher=0.08 * clips
            ),
        ),
    )


def scored_role(split: Split, videos: int, *, seed: int = 0) -> tuple[ScoredEntry, ...]:
    """Return several videos of one role, two in a group."""
    return tuple(scored_entry(number, split, seed=seed) for number in range(videos))


def scoring_context() -> ScoringContext:
    """Return under what they were scored."""
    return ScoringContext(
        model_version="m-000000000001",
        labels=LABELS,
        label_kind="single",
        sampling=ClipSampling(),
        flops=ClipFlops(student=20_000_000, teacher=1_500_000_000),
        device="cpu",
        decoder="pyav-test",
    )


UNCALIBRATED = Calibration()
