"""How a bundle is trained: every setting of ``cdlabel train``, each declared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import JsonValue

from cdmodel.errors import ConfigError
from cdmodel.labels import LabelKind
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.student_sizes import StudentSize, StudentSpec, student_spec
from cdmodel.targets import ConfidenceTarget
from cdmodel.teacher_source import TeacherSettings

Precision = Literal["auto", "float32", "bfloat16"]
RequestedOrigin = Literal["heldout", "crossfit", "insample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """Which network is the student, and how long it is trained."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    size: StudentSize = "small"
    """``small``, ``medium``, ``large`` or ``keyframe``: network, arguments and geometry together, see docs/students.md."""
    builder: str | None = None
    """``module:function`` of another network; by default the size's."""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """For the builder, beside those of the size; with a ``builder`` of your own, all of them."""
    geometry: ClipGeometry | None = None
    """What it sees of a clip; by default the size's."""
    start: str | None = None
    """Local folder of a bundle whose student, the same network, this one starts from; by default from the seed."""
    steps: int = 2000
    learning_rate: float = 0.004
    """The highest; it rises to it and falls from it again (one cycle)."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError("student.steps", f"must be at least 2, got {self.steps}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError("student.learning_rate", f"must be above 0 and below 1, got {self.learning_rate}")
        if self.builder is not None and self.geometry is None:
            raise ConfigError("student.geometry", "must be given with student.builder")

    def describe(self) -> StudentSpec:
        """Return the network that these settings ask for."""
        preset = student_spec(self.size)
        return StudentSpec(
            builder=self.builder or preset.builder,
            arguments={**({} if self.builder else preset.arguments), **self.arguments},
            geometry=self.geometry or preset.geometry,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSettings:
    """What the student learns of the teacher's confidence, and on which clips."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    target: ConfidenceTarget = "tcp"
    """What q_teacher is taught as. ``maxprob``, ``entropy``, ``margin``, ``tta_mi`` and ``vote_mode`` need no label, and
    measure how sure the teacher is, not whether it is right."""
    origin: RequestedOrigin = "heldout"
    """How the teacher is kept from judging itself. ``heldout``: it never sees the role ``conf``, on which both heads
    learn. ``crossfit``: it learns from ``train`` and ``conf``, and is trained ``folds`` more times to give every clip of
    both a target from a teacher that did not see its group; better where videos are few, and with five folds six
    times the teacher's training, by far the longest part: hence not the default. ``insample``: for
    experiments only; it is judged on what it learned. A teacher of which nothing is trained needs none of this."""
    folds: int = 5
    """Of ``crossfit``; each needs a source group of its own."""
    views: int = 8
    """How many shifted copies of a clip the teacher answers, for the targets ``tta_mi``, ``vote`` and ``vote_mode``."""

    def __post_init__(self) -> None:
        for name in ("folds", "views"):
            if getattr(self, name) < 2:
                raise ConfigError(f"confidence.{name}", f"must be at least 2, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a bundle is trained. The defaults train a bundle like the one that ships with the project."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    seed: int = 0
    label_kind: LabelKind = "single"
    """``single``: each video shows exactly one class. ``multi``: any number of labels is true of it."""
    clips_per_step: int = 32
    """Of each role: the student also sees as many clips for its confidence heads in a step."""
    background_weight: float = 0.15
    """Least weight of a clip that does not seem to show its video's label; 1 trusts every clip alike. Not used with
    ``multi``."""
    precision: Precision = "auto"
    """Of the arithmetic in training; scoring is always float32. ``auto`` is bfloat16 where the processor or the GPU has
    units for it, else float32: on an AVX2 machine float32 was six to ten times faster."""
    allowed_builders: tuple[str, ...] = ()
    """Modules, besides this project's own, whose builders may be named. Naming one runs its code."""
    max_escalated_share: float = 1.0
    """Largest share of the clips of ``cal`` that the default threshold may send to the teacher; up to there it is chosen by
    price."""
    no_dearer_than: str | None = None
    """Local folder of a bundle: the default threshold sends no more of the clips of ``cal`` to the teacher than that
    bundle's default would of the same clips. Its student must see clips of the same size."""
    sampling: ClipSampling = ClipSampling()  # noqa: RUF009 - frozen
    teacher: TeacherSettings = TeacherSettings()  # noqa: RUF009 - frozen
    student: StudentSettings = StudentSettings()
    confidence: ConfidenceSettings = ConfidenceSettings()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed", f"must not be negative, got {self.seed}")
        if not 0 <= self.max_escalated_share <= 1:
            raise ConfigError("max_escalated_share", f"must lie between 0 and 1, got {self.max_escalated_share}")
        if self.clips_per_step < 2:
            raise ConfigError("clips_per_step", f"must be at least 2, got {self.clips_per_step}")
        if not 0 <= self.background_weight <= 1:
            raise ConfigError("background_weight", f"must lie between 0 and 1, got {self.background_weight}")
