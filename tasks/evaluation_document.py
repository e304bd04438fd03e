"""``evaluation.json``: the shape that scripts and the retraining gate read, see contract and ``docs/evaluation.md``.

Numbers have six significant digits; what has no value is null, never NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from pydantic import JsonValue

from cdmodel.evaluation import EvaluationSettings
from cdmodel.evaluation_details import COST_SHARES, EvaluationDetails, LadderComparison
from cdmodel.evaluation_points import Evaluation
from cdmodel.metrics import RiskCoverage
from cdmodel.score_entry import ScoredEntry, UnreadableVideo
from cdmodel.types import LabeledVideo

EVALUATION_SCHEMA_VERSION = 1
SIGNIFICANT_DIGITS = 6
COVERAGES = np.linspace(0.02, 1.0, 50)
"""Where curves of risk against coverage are written down."""
NO_RISK_ROLE = "the bundle was trained without videos in the role risk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found, before it becomes a document, tables or plots."""

    model_version: str
    policy: str
    """Kind of the bundle's default policy."""
    aggregation: str
    """Kind of the bundle's aggregation."""
    settings: EvaluationSettings
    videos: tuple[LabeledVideo, ...]
    """Of ``cal`` and ``test`` as asked for, readable or not."""
    cal: tuple[ScoredEntry, ...]
    test: tuple[ScoredEntry, ...]
    unreadable: tuple[UnreadableVideo, ...]
    evaluation: Evaluation
    details: EvaluationDetails
    comparisons: tuple[LadderComparison, ...]
    labels_unknown: tuple[str, ...] = ()
    """Labels of the videos that the bundle does not know, ascending: no answer to those is right."""


def to_document(report: Report) -> dict[str, JsonValue]:
    """Return the contents of ``evaluation.json``.

    Raises:
        ValueError: a number is not finite.
    """
    evaluation = report.evaluation
    document = {
        "schema_version": EVALUATION_SCHEMA_VERSION,
        "dataset": _describe_dataset(report),
        "model_version": report.model_version,
        "seeds": [report.settings.seed],
        **asdict(evaluation),
        "certified": _describe_certificate(report),
        "comparisons": [_describe_comparison(comparison) for comparison in report.comparisons],
        **_describe_details(report.details),
    }
    return {key: _plain(value) for key, value in document.items()}


def to_text(document: Mapping[str, JsonValue]) -> str:
    """Return the document as JSON; equal documents give equal text."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def hash_dataset(videos: Sequence[LabeledVideo]) -> str:
    """Return the hash of which videos stand for what: versions, labels, groups and roles, in any order."""
    rows = sorted([v.video.video_id, v.video.video_version, sorted(v.labels), v.group, v.split or ""] for v in videos)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _describe_dataset(report: Report) -> dict[str, object]:
    scored = [*report.cal, *report.test]
    return {
        "videos": len(scored),
        "groups": len({entry.video.group for entry in scored}),
        "classes": len({label for entry in scored for label in entry.video.labels}),
        "labels_unknown": list(report.labels_unknown),
        "sha256": hash_dataset(report.videos),
        "roles": {
            role: {"videos": len(entries), "groups": len({entry.video.group for entry in entries})}
            for role, entries in (("cal", report.cal), ("test", report.test))
        },
        "unreadable": [asdict(video) for video in report.unreadable],
    }


def _describe_certificate(report: Report) -> dict[str, object]:
    if report.evaluation.certified is not None:
        return asdict(report.evaluation.certified)
    return {
        "epsilon": report.settings.epsilon,
        "delta": report.settings.delta,
        "groups": 0,
        "setting": None,
        "harm_on_test": None,
        "saved_flops_share": None,
        "reason": NO_RISK_ROLE,
    }


def _describe_comparison(comparison: LadderComparison) -> dict[str, object]:
    return {"cost_shares": COST_SHARES, **asdict(comparison)}


def _describe_details(details: EvaluationDetails) -> dict[str, object]:
    return {
        "flips": asdict(details.flips),
        "mean_class_accuracy": details.mean_class_accuracy,
        "by_class": [asdict(piece) for piece in details.by_class],
        "by_length": [asdict(piece) for piece in details.by_length],
        "reliability": {
            name: {"confidence": bins.confidence_B, "right_share": bins.right_share_B, "count": bins.count_B}
            for name, bins in details.reliability.items()
        },
        "risk_coverage": {name: _thin(curve) for name, curve in details.risk_coverage.items()},
    }


def _thin(curve: RiskCoverage) -> dict[str, object]:
    place_C = np.ceil(COVERAGES * len(curve.coverage_V)).astype(int) - 1
    return {"coverage": curve.coverage_V[place_C], "selective_risk": curve.selective_risk_V[place_C]}


def _plain(value: object) -> JsonValue:
    """Return the value as JSON knows it."""
    match value:
        case None | bool() | str():
            return value
        case float() | np.floating():
            return _rounded(float(value))
        case int() | np.integer():
            return int(value)
        case np.ndarray():
            return [_plain(item) for item in value.tolist()]
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            raise TypeError(f"{type(value).__name__} has no place in evaluation.json")


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"an evaluation must not hold {value}")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
