"""How a retraining cycle ended, in words: what was learned from, what the gate checked, what became of the candidate."""

from __future__ import annotations

import json
from typing import Any

from storage.run_record import RunRecord

WHAT_BECAME = {
    "promoted": "took its place",
    "kept": "was kept; production stays",
    "refused": "could not be judged; production stays",
}


def gate_receipt(record: RunRecord) -> str:
    """Return the receipt of a cycle's row as Markdown, which also reads as text."""
    facts: dict[str, Any] = json.loads(record.lineage_json or "{}")
    lines = [
        f"{facts['alias']} was {facts['inputs']['production']}; candidate {record.model_version} {WHAT_BECAME[record.status]}.",
        f"Why: {facts['reason']}",
        "",
        f"Learned from {record.videos_labeled:,} videos ({record.videos_skipped:,} could not be read); asked for "
        f"{facts['asked_by']}.",
        "",
        "| check | on | what was found | passed |",
        "|---|---|---|---|",
    ]
    lines += [f"| {check['name']} | {check['on']} | {check['words']} | {_answer(check)} |" for check in facts["gate"]]
    return "\n".join(lines)


def why(record: RunRecord) -> str:
    """Return the reason of what became of the candidate."""
    reason: str = json.loads(record.lineage_json or "{}")["reason"]
    return reason


def _answer(check: dict[str, Any]) -> str:
    if check["passed"]:
        return "yes"
    return "**no**" if check["decides"] else "no"
