"""One labeled video of a data set with the raw answers of both models, and what is the same for all of them.

What an evaluation keeps on disk: every calibration, policy and aggregation can be replayed from it. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdmodel.labels import LabelKind
from cdmodel.replay import CachedVideo, ClipFlops
from cdmodel.sampling import ClipSampling
from cdmodel.types import ClipSpan, LabeledVideo


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringContext:
    """Under what a video was scored; answers of different contexts do not belong together."""

    model_version: str
    labels: tuple[str, ...]
    """K names; columns of all logits."""
    label_kind: LabelKind
    sampling: ClipSampling
    flops: ClipFlops
    device: str
    decoder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredEntry:
    """One video: who it is, where its clips lie, and what both models said of each of them."""

    video: LabeledVideo
    duration_seconds: float | None
    """None where neither container nor decoder told."""
    spans: tuple[ClipSpan, ...]
    """Where each clip lies, N of them."""
    answers: CachedVideo

    def __post_init__(self) -> None:
        clips = len(self.spans)
        if not clips == len(self.answers.student.logits_NK) == len(self.answers.teacher_logits_NK):
            raise ValueError(
                f"{self.video.video.uri}: {clips} spans, but {len(self.answers.student.logits_NK)} answers of the "
                f"student and {len(self.answers.teacher_logits_NK)} of the teacher"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableVideo:
    """A video that could not be scored, and was left out."""

    uri: str
    reason: str
