"""Helpers for tests, also of other people's code: models that answer from a table, a tiny bundle, odd little videos.

A flat video shows one grey level per frame, so what a model was given tells which frame it saw. The table models look
up their answer by that level, hence by the clip, whichever clips they are asked about and in whatever order.
N clips, K classes, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cdmodel.aggregation import Aggregation, LogPool
from cdmodel.bundle import (
    BUILTIN_BUILDERS,
    SCHEMA_VERSION,
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    BundleManifest,
    ModelSpec,
    file_sha256,
    write_manifest,
)
from cdmodel.calibration import Calibration
from cdmodel.models import CascadeModels, StudentOutput, StudentScorer, TeacherScorer, build_network
from cdmodel.policies import EscalationPolicy, Gain
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.weights import write_weights

LEVEL_STEP = 20
"""Grey levels between two clips of a numbered video: far more than a codec loses."""
FIRST_LEVEL = 30
MILLISECOND = Fraction(1, 1000)


def encode_flat_video(
    levels: Sequence[int],
    *,
    stamps_ms: Sequence[int] | None = None,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    container: str = "matroska",
    keyframe_interval: int = 12,
) -> bytes:
    """Return a video whose frame i is one flat grey of ``levels[i]``, shown from ``stamps_ms[i]``.

    Without stamps the frames are spaced evenly at ``fps``. ``size`` is width and height, both even.
    """
    width, height = size
    stamps_ms = stamps_ms or [round(1000 * number / fps) for number in range(len(levels))]
    buffer = io.BytesIO()
    options = {"preset": "ultrafast", "crf": "4", "g": str(keyframe_interval), "bf": "0", "threads": "1"}
    with av.open(buffer, mode="w", format=container) as output:
        stream = output.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        for level, stamp_ms in zip(levels, stamps_ms, strict=True):
            pixels_HWC = np.full((height, width, 3), level, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
            frame.pts, frame.time_base = stamp_ms, MILLISECOND
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def encode_numbered_clips(clips: int, *, fps: int = 8) -> bytes:
    """Return a video of one-second clips, at most eleven, each of its own grey level (see the table models)."""
    levels = [FIRST_LEVEL + LEVEL_STEP * clip for clip in range(clips) for _ in range(fps)]
    return encode_flat_video(levels, fps=fps, keyframe_interval=fps)


def encode_sound(seconds: float = 0.5) -> bytes:
    """Return a WAV file of silence: a container without a picture."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        silence = np.zeros((1, int(8000 * seconds)), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


class TableStudent(nn.Module):
    """Answers for a numbered clip with its row of a table, and remembers which clips it was asked about."""

    def __init__(self, probabilities_NK: ArrayLike, q_teacher_N: ArrayLike, q_student_N: ArrayLike) -> None:
        super().__init__()
        self._logits_NK = _log(probabilities_NK)
        self._q_teacher_logit_N = torch.logit(_tensor(q_teacher_N))
        self._q_student_logit_N = torch.logit(_tensor(q_student_N))
        self.asked: list[int] = []

    def forward(self, clips_NTCHW: Tensor) -> StudentOutput:
        """Return the rows of the clips."""
        rows = _numbers_of(clips_NTCHW)
        self.asked.extend(rows)
        return StudentOutput(
            logits_NK=self._logits_NK[rows],
            q_teacher_logit_N=self._q_teacher_logit_N[rows],
            q_student_logit_N=self._q_student_logit_N[rows],
        )


class TableTeacher(nn.Module):
    """Answers for a numbered clip with its row of a table, and remembers which clips it was asked about."""

    def __init__(self, probabilities_NK: ArrayLike) -> None:
        super().__init__()
        self._logits_NK = _log(probabilities_NK)
        self.asked: list[int] = []

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        """Return the rows of the clips."""
        rows = _numbers_of(clips_NTCHW)
        self.asked.extend(rows)
        return self._logits_NK[rows]


def table_models(
    student: TableStudent,
    teacher: TableTeacher,
    *,
    labels: Sequence[str],
    calibration: Calibration | None = None,
    student_flops: int = 10,
    teacher_flops: int = 1000,
) -> CascadeModels:
    """Return a cascade of two table models on the CPU, for numbered videos of one-second clips."""
    spec = _spec("cdmodel.testing:none", ClipGeometry(frames=2, height=8, width=8))
    teacher_spec = replace(spec, geometry=ClipGeometry(frames=4, height=12, width=16))
    calibration = calibration or Calibration()
    device = torch.device("cpu")
    manifest = _manifest(tuple(labels), spec, teacher_spec, calibration, Gain(min_gain=0.0), LogPool())
    return CascadeModels(
        model_version="m-table",
        manifest=manifest,
        student=StudentScorer(network=student, spec=spec, device=device, flops_per_clip=student_flops),
        teacher=TeacherScorer(network=teacher, spec=teacher_spec, device=device, flops_per_clip=teacher_flops),
        device_name="cpu",
    )


def write_tiny_bundle(
    folder: Path,
    *,
    labels: Sequence[str] = ("left", "right", "still"),
    calibration: Calibration | None = None,
    policy: EscalationPolicy | None = None,
    aggregation: Aggregation | None = None,
    teacher_builder: str = "cdmodel.teacher:build_teacher",
    teacher_arguments: Mapping[str, int] | None = None,
    seed: int = 0,
) -> BundleManifest:
    """Write a real bundle of the smallest built-in networks with random weights, and return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    student = _spec(
        "cdmodel.student:build_student", ClipGeometry(frames=2, height=16, width=16), {"channels": 4, "hidden": 4}
    )
    teacher = _spec("cdmodel.teacher:build_teacher", ClipGeometry(frames=8, height=32, width=32), {"channels": 3})
    torch.manual_seed(seed)
    for spec, name in ((student, STUDENT_WEIGHTS), (teacher, TEACHER_WEIGHTS)):
        write_weights(build_network(spec, len(labels), BUILTIN_BUILDERS), folder / name)
    manifest = _manifest(
        tuple(labels),
        replace(student, weights_sha256=file_sha256(folder / STUDENT_WEIGHTS)),
        replace(
            teacher,
            builder=teacher_builder,
            arguments=dict(teacher_arguments or teacher.arguments),
            weights_sha256=file_sha256(folder / TEACHER_WEIGHTS),
        ),
        calibration or Calibration(),
        policy or Gain(min_gain=0.0),
        aggregation or LogPool(),
    )
    write_manifest(folder, manifest)
    return manifest


def _spec(builder: str, geometry: ClipGeometry, arguments: Mapping[str, int] | None = None) -> ModelSpec:
    return ModelSpec(
        builder=builder,
        arguments=dict(arguments or {}),
        geometry=geometry,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        weights_sha256="",
    )


def _manifest(
    labels: tuple[str, ...],
    student: ModelSpec,
    teacher: ModelSpec,
    calibration: Calibration,
    policy: EscalationPolicy,
    aggregation: Aggregation,
) -> BundleManifest:
    return BundleManifest(
        schema_version=SCHEMA_VERSION,
        labels=labels,
        sampling=ClipSampling(),
        student=student,
        teacher=teacher,
        calibration=calibration,
        default_policy=policy,
        default_aggregation=aggregation,
        provenance={},
        metrics={},
    )


def _numbers_of(clips_NTCHW: Tensor) -> list[int]:
    """Return which clip of a numbered video each clip is."""
    levels_N: NDArray[np.float32] = clips_NTCHW.mean(dim=(1, 2, 3, 4)).numpy() * 255
    return [int(number) for number in np.rint((levels_N - FIRST_LEVEL) / LEVEL_STEP)]


def _tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _log(values: ArrayLike) -> Tensor:
    return torch.log(_tensor(values))
