"""What OUT knows of the last night."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from failed_runs import fail_all

from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from tasks.last_night import LastNight, read_last_night
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, RetrySettings, RunRequest


def test_a_night_is_unfinished_until_its_run_is_and_retries_and_other_sources_are_no_nights(tmp_path: Path) -> None:
    videos, bundle = tmp_path / "videos", tmp_path / "bundle"
    videos.mkdir()
    write_tiny_bundle(bundle)
    (videos / "a.mkv").write_bytes(encode_numbered_clips(1))
    request = RunRequest(source=str(videos), out=str(tmp_path / "out"), bundle=str(bundle), config_toml="", run_id=None)
    assert read_last_night(request) == LastNight(planned_at=None, unfinished=None)

    before = datetime.now(UTC)
    first = open_run(request)
    assert isinstance(first, LabelingPlan)
    assert read_last_night(request) == LastNight(planned_at=None, unfinished=first.header.run_id)

    fail_all(request.out, first.header, lambda _: "unreadable")
    night = read_last_night(request)
    assert (night.unfinished, night.planned_at) == (None, first.header.created_at)
    assert before <= first.header.created_at <= before + timedelta(minutes=1)

    retry = open_run(replace(request, retry=RetrySettings(run_id=first.header.run_id)))
    assert isinstance(retry, LabelingPlan)
    assert read_last_night(request) == night
    fail_all(request.out, retry.header, lambda _: "unreadable")
    assert read_last_night(request) == night
    assert read_last_night(replace(request, source=str(tmp_path))) == LastNight(planned_at=None, unfinished=None)
