"""What a run's audit came to, for its row in the table of runs; and which alarms that row rings.

The alarms of a run follow from its row alone: the row holds the figures, and its configuration the limits.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from cdmodel.alarms import Alarm, AlarmSettings, RunFigures, check_alarms
from cdmodel.audit_draw import AuditSettings
from cdmodel.bundle import BundleManifest, model_version, read_manifest
from cdmodel.drift import EDGES, ConfidenceCounts, ConfidenceReference, confidence_drift
from cdmodel.errors import BundleError
from storage.bundles import local_bundle
from storage.publish import AuditedRows
from storage.run_record import RunRecord
from storage.run_store import RunHeader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFigures:
    """Fields of ``RunRecord`` under the same names; None where there is nothing to tell."""

    audit_videos: int | None = None
    audit_groups: int | None = None
    audit_agreement: float | None = None
    audit_agreement_low: float | None = None
    audit_agreement_high: float | None = None
    audit_confidence: float | None = None
    audit_ece: float | None = None
    student_drift: float | None = None
    teacher_drift: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The part of a stored configuration that says what is watched. Runs of an earlier state lack it: nothing is."""

    audit: AuditSettings = AuditSettings()  # noqa: RUF009 - frozen
    alarms: AlarmSettings = AlarmSettings()  # noqa: RUF009 - frozen


_WATCHED = TypeAdapter(Watched)


def audit_figures(
    audited: AuditedRows,
    student: ConfidenceCounts,
    teacher: ConfidenceCounts,
    reference: ConfidenceReference | None,
) -> AuditFigures:
    """Return what the audited rows and the confidences of a run say."""
    student_drift = teacher_drift = None
    if reference is not None and reference.edges == EDGES:
        student_drift = confidence_drift(student, reference.student)
        teacher_drift = confidence_drift(teacher, reference.teacher)
    if not len(audited.label_id_V):
        return AuditFigures(audit_videos=0, student_drift=student_drift, teacher_drift=teacher_drift)
    # Here, not above: it loads scipy, which a run without an audited video does without.
    from cdmodel.audit import AuditedVideos, assess_audit

    findings = assess_audit(
        AuditedVideos(
            agreed_V=np.asarray(audited.label_id_V == audited.teacher_label_id_V),
            confidence_V=audited.confidence_V,
            groups=audited.groups,
        )
    )
    return AuditFigures(
        audit_videos=findings.videos,
        audit_groups=findings.groups,
        audit_agreement=findings.agreement.estimate,
        audit_agreement_low=findings.agreement.low,
        audit_agreement_high=findings.agreement.high,
        audit_confidence=findings.confidence,
        audit_ece=findings.calibration_error,
        student_drift=student_drift,
        teacher_drift=teacher_drift,
    )


def find_bundle(header: RunHeader) -> BundleManifest | None:
    """Return the manifest of a run's bundle; None where it is no longer what the run used.

    Drift then goes unmeasured and labels unnamed: no reason to lose a run whose videos are all labeled.
    """
    try:
        manifest = read_manifest(local_bundle(header.bundle_uri))
    except BundleError as error:
        logger.warning("drift not measured, labels not named: %s", error)
        return None
    if model_version(manifest) != header.model_version:
        logger.warning(
            "drift not measured, labels not named: %s is no longer the bundle %s",
            header.bundle_uri,
            header.model_version,
        )
        return None
    return manifest


def alarms_of(record: RunRecord) -> tuple[Alarm, ...] | None:
    """Return the alarms that a run's row rings under the limits of its own configuration; None: nothing was checked."""
    watch = watched(record)
    figures = RunFigures(
        audit_videos=record.audit_videos or 0,
        audit_agreement_high=record.audit_agreement_high,
        audit_ece=record.audit_ece,
        student_drift=record.student_drift,
        teacher_drift=record.teacher_drift,
        failed_share=record.videos_failed / record.videos_planned if record.videos_planned else None,
        saved_flops_share=record.saved_flops_share,
    )
    return check_alarms(watch.alarms, figures, watch.audit.min_videos)


def watched(record: RunRecord) -> Watched:
    """Return what a run's own configuration watches."""
    settings = json.loads(record.config_json)
    return _WATCHED.validate_python({name: settings[name] for name in ("audit", "alarms") if name in settings})
