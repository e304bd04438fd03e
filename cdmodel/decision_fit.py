"""From both networks' answers to labeled videos to everything else a bundle decides with: calibration, policy, risk.

Knows nothing of networks. Roles: ``cal`` for calibration and defaults, ``risk`` for what thresholds would have cost in
harm, which must not have been used for anything before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdmodel.aggregation import Aggregation, Judge, MeanProbability
from cdmodel.calibration import Calibration
from cdmodel.calibration_fit import fit_calibration
from cdmodel.defaults_fit import fit_defaults, values_at_shares
from cdmodel.drift import EDGES, ConfidenceReference, count_confidences
from cdmodel.labels import LabelKind
from cdmodel.policies import VideoRank
from cdmodel.replay import CachedVideo, ClipFlops, ScoredVideo, calibrate, dense_teacher, harm, replay
from cdmodel.risk import RiskCurve, RiskPoint, harm_by_group

REFERENCE_SHARES = tuple(round(0.05 * step, 2) for step in range(21))
"""Escalated shares whose thresholds a bundle remembers, for budgets."""
RISK_SHARES = tuple(round(0.02 * step, 2) for step in range(1, 46))
"""Escalated shares, on ``cal``, whose thresholds are tested for harm on ``risk``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """How a bundle turns answers into labels."""

    calibration: Calibration
    policy: VideoRank
    aggregation: Aggregation
    value_at_share: tuple[float, ...]
    """The smallest value of a clip that escalates each of ``REFERENCE_SHARES`` of the clips of ``cal``."""
    risk: RiskCurve | None
    """None where there is no video in the role ``risk``."""
    reference: ConfidenceReference
    """What both models' confidence looks like on ``cal``."""

    def judge(self, kind: LabelKind) -> Judge:
        """Return how clips become a video's answer."""
        return Judge(
            aggregation=self.aggregation, label_kind=kind, video_temperature=self.calibration.video_temperature
        )


def fit_decisions(
    cal: Sequence[CachedVideo],
    risk: Sequence[CachedVideo],
    kind: LabelKind,
    flops: ClipFlops,
    *,
    max_escalated_share: float = 1.0,
) -> Decisions:
    """Fit everything; ``cal`` must not be empty. The default threshold escalates no more than ``max_escalated_share`` of it.

    Raises:
        TrainingError: ``cal`` is empty.
    """
    calibration = fit_calibration(cal, kind)
    scored = [calibrate(video, calibration, kind) for video in cal]
    defaults = fit_defaults(scored, kind, flops, max_escalated_share)
    judge = defaults.judge(kind)
    decisions = Decisions(
        calibration=replace(calibration, video_temperature=defaults.video_temperature),
        policy=defaults.policy,
        aggregation=defaults.aggregation,
        value_at_share=values_at_shares(scored, judge, REFERENCE_SHARES),
        risk=None,
        reference=measure_confidence(scored),
    )
    if not risk:
        return decisions
    # First of all everything to the teacher: archives that need more than nine clips in ten can be certified too.
    ladder = (-1.0, *values_at_shares(scored, judge, RISK_SHARES))
    unseen = [calibrate(video, calibration, kind) for video in risk]
    return replace(decisions, risk=measure_risk(unseen, ladder, judge, flops))


def measure_confidence(videos: Sequence[ScoredVideo]) -> ConfidenceReference:
    """Count the calibrated confidence of both models on every clip: what a run is later compared with."""
    return ConfidenceReference(
        edges=EDGES,
        student=count_confidences(video.student.probabilities_NK.max(axis=1).tolist() for video in videos),
        teacher=count_confidences(video.teacher.probabilities_NK.max(axis=1).tolist() for video in videos),
    )


def measure_risk(videos: Sequence[ScoredVideo], ladder: Sequence[float], judge: Judge, flops: ClipFlops) -> RiskCurve:
    """Return the harm of each threshold per group, from cautious to bold.

    The dense teacher is the plain mean of the teacher on every clip, the baseline whose accuracy is to be kept.
    """
    dense = dense_teacher(Judge(aggregation=MeanProbability(), label_kind=judge.label_kind), videos, flops)
    groups = [video.group for video in videos]
    points: list[RiskPoint] = []
    for value in sorted(set(ladder)):
        run = replay(VideoRank(min_value=value), judge, videos, flops)
        points.append(
            RiskPoint(
                min_value=value,
                escalated_share=run.escalated_share,
                harm_G=harm_by_group(harm(run, dense), groups),
            )
        )
    return RiskCurve(groups=len(set(groups)), videos=len(videos), points=tuple(points))
