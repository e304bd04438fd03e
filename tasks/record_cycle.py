"""The row of a retraining cycle in the table of runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version

from cdmodel.cost import ComputeCost
from cdmodel.gate_facts import GateDecision
from storage.cycle_store import Candidate, CycleOutcome
from storage.filesystem import open_store
from storage.run_layout import RETRAIN_PREFIX
from storage.run_record import RunRecord, write_run_row
from tasks.lineage import code_commit, installed_versions
from tasks.retrain_cycle import Cycle

NOTHING_SPENT = ComputeCost()
"""On labeling: what training takes is not measured."""


def record_cycle(cycle: Cycle, candidate: Candidate, decision: GateDecision, outcome: CycleOutcome) -> RunRecord:
    """Write the row, then that the cycle has ended; return the row that stands: a cycle that was ended twice has one.

    ``videos_planned`` counts the examples, ``videos_labeled`` those that were learned from or measured on; costs are zero, since
    they are those of training and not of labeling.
    """
    begun = cycle.begun
    videos = candidate.videos_used + candidate.videos_skipped
    record = RunRecord(
        run_id=f"{RETRAIN_PREFIX}{begun.cycle_id}",
        flow="retrain",
        status=outcome.ending,
        started_at=begun.begun_at,
        ended_at=outcome.ended_at,
        source=begun.out,
        corpus="",
        model_version=candidate.model_version,
        fingerprint=begun.settings_sha256[:16],
        config_json=json.dumps(begun.settings, sort_keys=True),
        code_version=version("cdlabel"),
        labels=candidate.labels,
        videos_planned=videos,
        videos_labeled=candidate.videos_used,
        videos_partial=0,
        videos_failed=0,
        videos_skipped=candidate.videos_skipped,
        clips_planned=0,
        clips_student=0,
        clips_teacher=0,
        lineage_json=json.dumps(
            {
                "inputs": {"out": begun.out, "production": begun.production, "cycle": cycle.record.store.root},
                "outputs": {"candidate": candidate.model_version, "metrics": candidate.metrics},
                "alias": begun.alias,
                "asked_by": begun.reason,
                "gate": [asdict(check) for check in decision.checks],
                "reason": outcome.reason,
                "code": {"commit": code_commit(), "versions": installed_versions()},
            },
            sort_keys=True,
        ),
        **asdict(NOTHING_SPENT),
    )
    standing = write_run_row(open_store(begun.out), record)
    cycle.record.end(outcome)
    return standing
