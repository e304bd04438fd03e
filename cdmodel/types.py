"""What the words mean: the values that travel between flow, worker and table.

Torch-free and picklable. Pixels and scores live in ``clips`` and ``scores``; these are the facts that remain of them.
A new fact gets a new type: ``VideoRef -> VideoPrediction | VideoFailure -> ShardReceipt``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cdmodel.cost import ComputeCost
from cdmodel.drift import ConfidenceCounts
from cdmodel.errors import ErrorKind, VideoError
from cdmodel.stage_clock import StageSeconds

ScoredBy = Literal["student", "teacher"]
DecidedBy = Literal["student", "teacher", "both"]
Split = Literal["train", "conf", "cal", "risk", "test"]
"""Role of a labeled video; roles are disjoint by group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRef:
    """One version of one video, by name."""

    video_id: str
    uri: str
    """Absolute: a path on disk or a URL."""
    video_version: str
    """Etag, or size and modification time: another version is another video to the ledger."""
    size_bytes: int | None
    group: str | None = None
    """Source recording, where the corpus says; no part of the video's identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledVideo:
    """A video of a training or evaluation data set."""

    video: VideoRef
    labels: tuple[str, ...]
    """What is true of it: one label, or several where the data set is multi-label; never empty."""
    group: str
    """Source recording; videos of one group never fall on both sides of a split."""
    split: Split | None
    """None where the data set does not say: ``cdmodel.splits.assign_roles`` then gives one by group."""
    weight: float = 1.0
    """How often its clips are learned from, against those of other videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A labeled data set as it was found."""

    videos: tuple[LabeledVideo, ...]
    """Never empty. In a published data set the official test part has a role, the rest has none yet."""
    missing: tuple[str, ...] = ()
    """Videos that the annotation names and the folder lacks, by name; left out of ``videos``."""
    shared_sources: tuple[str, ...] = ()
    """Source recordings that the publisher's own split has both in training and in test. Their test videos count as
    another group, so that the official split stays what it is; what it measures is too good by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Videos that are processed and committed as one object."""

    shard_id: str
    """From content (videos, versions, fingerprint), never from rank."""
    videos: tuple[VideoRef, ...]
    """Ascending by ``video_id``."""
    expected_share: float | None = None
    """Of the whole run's cost, 0 to 1, as it was expected when the run was planned; None in plans that do not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpan:
    """Half-open interval of a video's time, in seconds from its first frame."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What the container and the decoder say of a video's picture."""

    duration_seconds: float | None
    """Observed where the video was decoded to its end, else as declared."""
    fps: float | None
    width: int | None
    """Coded size in pixels, before rotation."""
    height: int | None
    codec: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedLabel:
    """One entry of a video's ranking."""

    label_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """One clip and what was said of it. Student fields are None where only the teacher looked, and the reverse."""

    clip_index: int
    start_seconds: float
    """From the first frame of the video; the interval is half-open."""
    end_seconds: float
    scored_by: ScoredBy
    """Whose answer counts in the aggregate."""
    student_label_id: int | None
    student_confidence: float | None
    """Calibrated largest class probability."""
    q_teacher: float | None
    """Student's estimate of P(teacher right)."""
    q_student: float | None
    """Student's estimate of P(student right)."""
    teacher_label_id: int | None
    teacher_confidence: float | None
    weight: float
    """Share of this clip in the aggregate; the weights of a video sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What could not be read of a video that was labeled all the same."""

    error_kind: ErrorKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoAudit:
    """What the teacher says of a whole video that was drawn to check on the cascade."""

    teacher_label_id: int | None
    """As a run of the policy ``dense_teacher`` would label it; None where the other clips could not be read."""
    confidences: tuple[float, ...]
    """Its calibrated largest class probability on every clip; empty where there is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPrediction:
    """A labeled video. ``damage`` makes the row partial."""

    video: VideoRef
    facts: VideoFacts
    coverage: float
    """Share of the duration decoded without error, 0 to 1."""
    damage: Damage | None
    top_labels: tuple[RankedLabel, ...]
    """Best first; never empty."""
    decided_by: DecidedBy
    student_label_id: int | None
    """What the student alone would have said; None where it did not look."""
    student_confidence: float | None
    clips: tuple[ClipRecord, ...]
    clips_planned: int
    cost: ComputeCost
    device: str
    decoder: str
    decode_mode: str | None = None
    """How it was read, see ``decode_survey.DecodeMode``; None where that is not known."""
    decode_fallback: str | None = None
    """Why a better mode was left, or not tried; None where none was."""
    clips_unfunded: int | None = None
    """Clips that the policy would have asked the teacher about and the run's budget had no room for; None without one."""
    labeled_at: datetime
    audit: VideoAudit | None = None
    """None where the video was not drawn."""

    @property
    def clips_student(self) -> int:
        """Clips the student scored."""
        return sum(clip.student_label_id is not None for clip in self.clips)

    @property
    def clips_teacher(self) -> int:
        """Clips the teacher scored."""
        return sum(clip.teacher_label_id is not None for clip in self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFailure:
    """A video that could not be labeled, and why."""

    video: VideoRef
    error_kind: ErrorKind
    message: str
    facts: VideoFacts | None
    cost: ComputeCost
    device: str
    decoder: str
    decode_mode: str | None = None
    """As in ``VideoPrediction``."""
    decode_fallback: str | None = None
    labeled_at: datetime

    @classmethod
    def from_error(
        cls,
        video: VideoRef,
        error: VideoError,
        *,
        facts: VideoFacts | None,
        cost: ComputeCost,
        device: str,
        decoder: str,
        decode_mode: str | None = None,
        decode_fallback: str | None = None,
        labeled_at: datetime,
    ) -> VideoFailure:
        """Turn the error that ended a video into its row."""
        return cls(
            video=video,
            error_kind=error.kind,
            message=error.reason,
            facts=facts,
            cost=cost,
            device=device,
            decoder=decoder,
            decode_mode=decode_mode,
            decode_fallback=decode_fallback,
            labeled_at=labeled_at,
        )


VideoOutcome = VideoPrediction | VideoFailure
"""Every planned video ends as exactly one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReceipt:
    """Summary of one committed shard: a few numbers for the flow, and the Parquet footer of the shard's object."""

    run_id: str
    shard_id: str
    attempt_id: str
    """Which attempt wrote the object; another attempt of the same shard has another id."""
    fingerprint: str
    videos_labeled: int
    videos_partial: int
    videos_failed: int
    clips_planned: int
    clips_student: int
    clips_teacher: int
    clips_unfunded: int = 0
    videos_unfunded: int = 0
    """Videos with such clips."""
    cost: ComputeCost
    committed_at: datetime
    rows_sha256: str | None = None
    """Of the rows themselves; None where an earlier state of this project wrote them."""
    student_confidence: ConfidenceCounts = ConfidenceCounts()  # noqa: RUF009 - frozen
    """The student's, on every clip it scored."""
    teacher_confidence: ConfidenceCounts = ConfidenceCounts()  # noqa: RUF009 - frozen
    """The teacher's, on every clip of audited videos: elsewhere it sees chosen clips alone."""
    cost_usd: float | None = None
    """By the price table the shard was labeled with; None without one."""
    stages: StageSeconds = StageSeconds()  # noqa: RUF009 - frozen
    """Zero where it was not measured."""

    @property
    def videos(self) -> int:
        """All videos of the shard, whatever became of them."""
        return self.videos_labeled + self.videos_partial + self.videos_failed
