"""What a bundle would spend on given videos: the share of their clips that it asks its teacher about. V videos, N clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdmodel.aggregation import Judge
from cdmodel.bundle import BundleManifest, read_manifest
from cdmodel.calibration import Calibration, calibrate_student
from cdmodel.errors import BundleError
from cdmodel.escalation import asks_once, first_clips
from cdmodel.models import load_student
from cdmodel.policies import EscalationPolicy
from cdmodel.role_clips import ClipPixels, RoleClips
from cdmodel.sampling import ClipGeometry
from cdmodel.scores import StudentLogits, StudentScores
from cdmodel.training import score_student

WAY_OUT = "leave no_dearer_than out (retrain.keep_cost = false)"


def spent_share(folder: Path, clips: RoleClips, geometry: ClipGeometry, allowed_builders: Sequence[str] = ()) -> float:
    """Return the share of the clips, 0 to 1, that the default policy of the bundle in ``folder`` sends to its teacher.

    Only its student looks at them, so that it costs no more than that. ``geometry`` is how the clips were read for it.

    Raises: as ``check_foretold``.
    """
    manifest = check_foretold(folder, geometry)
    student = load_student(folder, allowed_builders=allowed_builders)
    output = score_student(student.network, student.spec, ClipPixels.of(clips.student_NTCHW))
    logits = StudentLogits(
        logits_NK=output.logits_NK.numpy(),
        q_teacher_logit_N=output.q_teacher_logit_N.numpy(),
        q_student_logit_N=output.q_student_logit_N.numpy(),
        motion_N=np.zeros(len(clips.student_NTCHW), dtype=np.float32),
    )
    judge = Judge(
        aggregation=manifest.default_aggregation,
        label_kind=manifest.label_kind,
        video_temperature=manifest.calibration.video_temperature,
    )
    return asked_share(manifest.default_policy, logits, clips, manifest.calibration, judge)


def check_foretold(folder: Path, geometry: ClipGeometry) -> BundleManifest:
    """Return the bundle's manifest if its student alone tells what it spends on clips of this size.

    Raises:
        BundleError: the bundle cannot be read, its student sees clips of another size, or its default policy waits for what
            the teacher says.
    """
    manifest = read_manifest(folder)
    if manifest.student.geometry != geometry:
        raise BundleError(
            str(folder),
            f"no_dearer_than needs a student that sees the same clips: there it is {manifest.student.geometry}, here {geometry}; "
            f"{WAY_OUT}",
        )
    if not asks_once(manifest.default_policy):
        raise BundleError(
            str(folder),
            f"its policy {manifest.default_policy.kind} waits for what the teacher says, so that the student alone does not tell "
            f"what it spends; {WAY_OUT}",
        )
    return manifest


def asked_share(
    policy: EscalationPolicy, logits: StudentLogits, clips: RoleClips, calibration: Calibration, judge: Judge
) -> float:
    """Return the share of the clips that a policy which asks once would ask about, from the student's raw answers."""
    asked = 0
    ends_V = np.cumsum(clips.clips_V)
    for video, count, end in zip(clips.videos, clips.clips_V, ends_V, strict=True):
        scores = calibrate_student(logits.rows(slice(int(end - count), int(end))), calibration, judge.label_kind)
        asked += int(first_clips(policy, [video], int(count), StudentScores.stack([scores]), judge).sum())
    return asked / int(ends_V[-1])
