"""What ``retry`` takes up, with which settings, and what it refuses; everything but the labeling itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from failed_runs import fail_all
from typer.testing import CliRunner, Result

from cdmodel.errors import ErrorKind
from flows.cli import app
from flows.config import LabelRunConfig, load_config, to_request
from flows.retry_command import _find_finished, _retry_config
from storage.filesystem import open_store
from storage.run_store import iter_shards
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, NothingToDo

KINDS: dict[str, ErrorKind] = {"gone": "not_found", "broken": "unreadable"}


@pytest.fixture
def config(tmp_path: Path) -> LabelRunConfig:
    films = tmp_path / "films"
    films.mkdir()
    for name in KINDS:
        (films / f"{name}.mp4").write_bytes(b"nothing")
    settings = {"source": str(films), "out": str(tmp_path / "out"), "cluster.workers": 2, "run_id": "first"}
    return load_config(None, ["decode.deadline_seconds=60"], settings)


def _fail_all(config: LabelRunConfig) -> LabelingPlan:
    """Plan a run and fail its videos, each as its name says."""
    plan = open_run(to_request(config))
    assert isinstance(plan, LabelingPlan)
    fail_all(config.out, plan.header, lambda video: KINDS[Path(video.uri).stem])
    return plan


def _retry_of(config: LabelRunConfig, *reasons: str, scheduler: str | None = None) -> LabelRunConfig:
    store = open_store(config.out)
    return _retry_config(store, _find_finished(store, None), list(reasons), None, None, None, scheduler, None)


def _planned(config: LabelRunConfig) -> tuple[LabelingPlan, list[str]]:
    plan = open_run(to_request(config))
    assert isinstance(plan, LabelingPlan)
    shards = iter_shards(open_store(config.out), plan.header.run_id)
    return plan, sorted(Path(video.uri).stem for shard in shards for video in shard.videos)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_retry_takes_up_all_that_failed_under_the_settings_of_the_latest_run(config: LabelRunConfig):
    _fail_all(config)
    retry = _retry_of(config)
    assert (retry.run_id, retry.decode, retry.source) == (None, config.decode, config.source)
    plan, names = _planned(retry)
    assert names == ["broken", "gone"]
    assert (plan.header.retry_reasons, plan.header.corpus) == ((), "films")


def test_the_profile_of_a_run_is_not_its_retries(config: LabelRunConfig, tmp_path: Path):
    _fail_all(config.model_copy(update={"profile": str(tmp_path / "profile.json")}))
    assert _retry_of(config).profile is None


def test_a_reason_takes_up_only_its_kind_and_an_interrupted_retry_goes_on(config: LabelRunConfig):
    _fail_all(config)
    first, names = _planned(_retry_of(config, "unreadable"))
    assert names == ["broken"]
    again, _ = _planned(_retry_of(config, "unreadable"))
    assert (again.resumed, again.header.run_id) == (True, first.header.run_id)
    other, names = _planned(_retry_of(config, "not_found"))
    assert (names, other.resumed) == (["gone"], False)


def test_labeling_does_not_go_on_with_an_interrupted_retry(config: LabelRunConfig):
    _fail_all(config)
    _planned(_retry_of(config, "unreadable"))
    (Path(config.source) / "new.mp4").write_bytes(b"new")
    plan, names = _planned(config.model_copy(update={"run_id": None}))
    assert (names, plan.resumed) == (["gone", "new"], False)
    assert (plan.videos_tried_again, plan.header.videos_quarantined) == (1, 1)


def test_a_replaced_file_is_retried_in_its_new_version(config: LabelRunConfig):
    _fail_all(config)
    (Path(config.source) / "broken.mp4").write_bytes(b"mended, and longer")
    plan, _ = _planned(_retry_of(config, "unreadable"))
    (shard,) = iter_shards(open_store(config.out), plan.header.run_id)
    assert shard.videos[0].size_bytes == len(b"mended, and longer")


def test_a_retry_of_a_retry_is_planned_from_the_same_settings(config: LabelRunConfig):
    _fail_all(config)
    _fail_all(_retry_of(config))
    retry = _retry_of(config, "unreadable")
    assert retry.decode == config.decode
    assert _planned(retry)[1] == ["broken"]


def test_a_scheduler_replaces_the_workers_of_the_earlier_run(config: LabelRunConfig):
    _fail_all(config)
    assert _retry_of(config).cluster.workers == 2
    assert _retry_of(config, scheduler="tcp://host:1").cluster.workers is None


def test_nothing_failed_in_that_way_is_no_error(config: LabelRunConfig):
    _fail_all(config)
    result = _run("retry", config.out, "--reason", "no_frames")
    assert result.exit_code == 0, result.stderr
    assert "nothing to retry" in result.stderr
    assert isinstance(open_run(to_request(_retry_of(config, "no_frames"))), NothingToDo)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--reason", "sunspots"], 2, "decode_timeout"),
        (["--run", "none"], 1, "no run none"),
        (["--set", "decode.deadline=3"], 2, "decode.deadline"),
    ],
)
def test_what_a_user_got_wrong_is_named(config: LabelRunConfig, arguments: list[str], code: int, named: str):
    _fail_all(config)
    result = _run("retry", config.out, *arguments)
    assert result.exit_code == code
    assert named in result.stderr


def test_without_a_finished_run_there_is_nothing_to_retry(tmp_path: Path):
    result = _run("retry", tmp_path / "out")
    assert result.exit_code == 1
    assert "no finished run" in result.stderr


def test_plan_tells_what_is_quarantined_and_what_is_tried_again(config: LabelRunConfig):
    _fail_all(config)
    result = _run("plan", config.source, "--out", config.out, "--set", "decode.deadline_seconds=60", "--json")
    assert '"videos_quarantined": 1, "videos_tried_again": 1' in result.stdout
