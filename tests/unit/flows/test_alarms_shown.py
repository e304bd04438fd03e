"""How a user hears of an alarm: a line on stderr, and exit code 3 where strictness was asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
from run_builders import record_of

from flows.label_commands import show_record
from storage.run_record import RunRecord


def _record(**limits: float) -> RunRecord:
    facts = {"videos_planned": 10, "saved_flops_share": 0.5, "student_drift": 1.0}
    return replace(record_of("r1"), config_json=json.dumps({"alarms": limits}), **facts)


def test_every_alarm_is_a_line_on_stderr_and_ends_a_strict_command_with_3(capsys):
    loud = _record(min_saved_flops_share=0.9, max_student_drift=0.1)
    show_record(None, loud, strict=False, json_output=True)  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert json.loads(shown.out)["run_id"] == "r1"
    assert [line.partition(":")[0] for line in shown.err.splitlines()] == [
        "alarm student_drift",
        "alarm saved_flops_share",
    ]
    with pytest.raises(typer.Exit) as ended:
        show_record(None, loud, strict=True, json_output=True)  # type: ignore[arg-type]
    assert ended.value.exit_code == 3


def test_a_run_without_an_alarm_and_without_a_failure_satisfies_the_strict(capsys):
    show_record(None, _record(min_saved_flops_share=0.1), strict=True, json_output=False)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
