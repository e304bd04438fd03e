from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from failed_runs import fail_all
from run_builders import NOON, context, prediction, publish_and_finish

from cdmodel.aggregation import LogPool, MeanProbability
from cdmodel.bundle import (
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    BundleManifest,
    ModelSpec,
    file_sha256,
    model_version,
    read_manifest,
    write_manifest,
)
from cdmodel.calibration import Calibration
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.cost import ComputeCost
from cdmodel.errors import BundleError, ConfigError, OutputError, SourceError
from cdmodel.policies import Budgeted, Certified, DenseStudent, DenseTeacher, VideoRank
from cdmodel.risk import RiskCurve
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import VideoRef
from storage.filesystem import open_store
from storage.run_store import commit_shard, iter_shards, read_header
from tasks.plan_run import open_run, preview_run
from tasks.read_status import read_status
from tasks.run_request import LabelingPlan, NothingToDo, RunRequest
from tasks.sharding import ShardingSettings
from tasks.work_identity import work_fingerprint


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    specs = []
    for name in (STUDENT_WEIGHTS, TEACHER_WEIGHTS):
        (folder / name).write_bytes(name.encode())
        specs.append(
            ModelSpec(
                builder="cdmodel.student:build_student",
                arguments={},
                geometry=ClipGeometry(frames=4, height=16, width=16),
                mean=(0.5, 0.5, 0.5),
                std=(0.25, 0.25, 0.25),
                weights_sha256=file_sha256(folder / name),
            )
        )
    manifest = BundleManifest(
        schema_version=2,
        labels=("run", "sit"),
        sampling=ClipSampling(),
        student=specs[0],
        teacher=specs[1],
        calibration=Calibration(),
        default_policy=DenseStudent(),
        default_aggregation=MeanProbability(),
        provenance={},
        metrics={},
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def wanted(tmp_path: Path, bundle: Path) -> RunRequest:
    films = tmp_path / "films"
    films.mkdir()
    for number in range(5):
        (films / f"{number}.mp4").write_bytes(b"video")
    return RunRequest(
        source=str(films),
        out=str(tmp_path / "out"),
        bundle=str(bundle),
        sharding=ShardingSettings(videos_per_shard=2),
        config_toml="# settings\n",
    )


def _planned(request: RunRequest) -> LabelingPlan:
    plan = open_run(request)
    assert isinstance(plan, LabelingPlan)
    return plan


def _nothing(request: RunRequest) -> NothingToDo:
    plan = open_run(request)
    assert isinstance(plan, NothingToDo)
    return plan


def _label_all(request: RunRequest, plan: LabelingPlan) -> None:
    fail_all(request.out, plan.header, lambda _: "unreadable")


def test_a_preview_writes_nothing(wanted: RunRequest):
    plan = preview_run(wanted)
    assert isinstance(plan, LabelingPlan)
    assert plan.shards is not None
    assert [len(shard.videos) for shard in plan.shards] == [2, 2, 1]
    assert not Path(wanted.out).exists()


def test_a_plan_is_in_storage_once_the_run_is_open(wanted: RunRequest, bundle: Path):
    preview = preview_run(wanted)
    plan = _planned(wanted)
    assert isinstance(preview, LabelingPlan)
    assert (plan.shards, plan.resumed) == (None, False)
    store = open_store(wanted.out)
    assert tuple(iter_shards(store, plan.header.run_id)) == preview.shards
    assert read_header(store, plan.header.run_id) == plan.header
    header = plan.header
    assert (header.videos, header.shards, header.bytes, header.videos_skipped) == (5, 3, 25, 0)
    assert (header.corpus, header.source) == ("films", wanted.source)
    assert header.model_version == model_version(read_manifest(bundle))


def test_a_video_that_took_long_in_an_earlier_run_is_a_shard_of_its_own(wanted: RunRequest):
    header = _planned(wanted).header
    store = open_store(wanted.out)
    for shard in iter_shards(store, header.run_id):
        outcomes = [replace(prediction(video), cost=_cost_of(video)) for video in shard.videos]
        commit_shard(store, outcomes, context(header.run_id, shard.shard_id, fingerprint=header.fingerprint), NOON)
    publish_and_finish(store, header.run_id)
    again = preview_run(replace(wanted, relabel=True))
    assert isinstance(again, LabelingPlan)
    [slow] = [shard for shard in again.shards or () if shard.expected_share and shard.expected_share > 0.5]
    assert [Path(video.uri).name for video in slow.videos] == ["1.mp4"]


def _cost_of(video: VideoRef) -> ComputeCost:
    return ComputeCost(decode_cpu_seconds=60.0 if video.uri.endswith("/1.mp4") else 1.0)


def test_the_bundle_decides_where_the_request_does_not(wanted: RunRequest):
    plan = _planned(wanted)
    assert plan.cascade == CascadeSettings(policy=DenseStudent(), aggregation=MeanProbability())
    assert plan.sampling == ClipSampling()


def test_a_budget_becomes_its_threshold_when_the_run_is_planned(wanted: RunRequest, bundle: Path):
    write_manifest(bundle, replace(read_manifest(bundle), value_at_share=(0.5, 0.25, -0.5)))
    plan = _planned(replace(wanted, policy=Budgeted(teacher_share=0.25)))
    assert plan.cascade.policy == VideoRank(min_value=0.375)
    threshold = replace(wanted, policy=plan.cascade.policy)
    assert _planned(threshold).resumed, "the same work, however it was asked for"


def test_what_cannot_be_certified_is_labeled_by_the_dense_teacher_and_the_log_says_so(
    wanted: RunRequest, bundle: Path, caplog: pytest.LogCaptureFixture
):
    few = RiskCurve(groups=3, videos=3, points=())
    write_manifest(bundle, replace(read_manifest(bundle), risk=few))
    plan = _planned(replace(wanted, policy=Certified(epsilon=0.01)))
    assert plan.cascade.policy == DenseTeacher()
    assert "not certifiable with 3 groups" in caplog.text


def test_what_the_bundle_cannot_answer_is_found_before_anything_is_written(wanted: RunRequest):
    for choice in (Budgeted(teacher_share=0.5), Certified(epsilon=0.1)):
        with pytest.raises(ConfigError):
            open_run(replace(wanted, policy=choice))
    assert not Path(wanted.out).exists()


def test_the_same_request_again_resumes_the_unfinished_run(wanted: RunRequest):
    first, second = _planned(wanted), _planned(wanted)
    assert second.resumed
    assert second.header == first.header
    assert second.shards is None


def test_a_finished_run_leaves_nothing_to_do(wanted: RunRequest):
    _label_all(wanted, _planned(wanted))
    assert _nothing(wanted) == NothingToDo(
        out=wanted.out, videos_skipped=5, finished_run_id=None, planned_by=(), videos_quarantined=5
    )


def test_new_and_changed_videos_are_planned_after_a_finished_run(wanted: RunRequest):
    _label_all(wanted, _planned(wanted))
    (Path(wanted.source) / "new.mp4").write_bytes(b"new")
    (Path(wanted.source) / "0.mp4").write_bytes(b"changed")
    plan = _planned(wanted)
    assert (plan.header.videos, plan.header.videos_skipped) == (2, 4)
    videos = [video for shard in iter_shards(open_store(wanted.out), plan.header.run_id) for video in shard.videos]
    assert {Path(video.uri).name for video in videos} == {"new.mp4", "0.mp4"}


def test_videos_that_another_run_has_planned_are_left_to_it(wanted: RunRequest):
    first = _planned(replace(wanted, source=f"{wanted.source}/[01].mp4"))
    second = _planned(wanted)
    assert (second.header.videos, second.header.videos_skipped) == (3, 2)
    nothing = _nothing(replace(wanted, source=f"{wanted.source}/[012].mp4"))
    assert nothing.planned_by == tuple(sorted((first.header.run_id, second.header.run_id)))


def test_relabel_plans_what_is_done_under_a_new_name(wanted: RunRequest):
    first = _planned(wanted)
    _label_all(wanted, first)
    again = _planned(replace(wanted, relabel=True))
    assert again.header.videos == 5
    assert again.header.run_id != first.header.run_id


def test_other_settings_are_other_work(wanted: RunRequest):
    _label_all(wanted, _planned(wanted))
    assert _planned(replace(wanted, policy=DenseTeacher())).header.videos == 5


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": ClipSampling(clip_seconds=2.0)},
        {"policy": DenseTeacher()},
        {"aggregation": LogPool()},
    ],
)
def test_whatever_changes_the_answers_changes_the_fingerprint(bundle: Path, change: dict[str, object]):
    manifest = read_manifest(bundle)

    def fingerprint(change: dict[str, object]) -> str:
        parts = {"sampling": ClipSampling(), "policy": DenseStudent(), "aggregation": MeanProbability(), **change}
        sampling = parts.pop("sampling")
        assert isinstance(sampling, ClipSampling)
        return work_fingerprint(manifest, sampling, CascadeSettings(**parts))  # type: ignore[arg-type]

    assert fingerprint(change) != fingerprint({})
    assert fingerprint({}) == fingerprint({})


def test_pictures_that_a_gpu_may_decode_are_other_work(wanted: RunRequest):
    on_cpu = _planned(wanted)
    on_gpu, where_worthwhile = (_planned(replace(wanted, decode_device=device)) for device in ("cuda", "auto"))
    assert len({plan.header.fingerprint for plan in (on_cpu, on_gpu, where_worthwhile)}) == 3
    assert _planned(replace(wanted, decode_device="cpu")).header.run_id == on_cpu.header.run_id


def test_a_certificate_does_not_hold_for_pictures_that_a_gpu_decodes(wanted: RunRequest):
    with pytest.raises(ConfigError, match="a certificate holds for videos decoded on the CPU"):
        open_run(replace(wanted, policy=Certified(epsilon=0.1), decode_device="auto"))


def test_a_run_can_be_named_and_is_found_again_by_name(wanted: RunRequest):
    named = replace(wanted, run_id="mine")
    plan = _planned(named)
    assert plan.header.run_id == "mine"
    assert _planned(named).resumed
    _label_all(named, plan)
    assert _nothing(named).finished_run_id == "mine"


def test_a_name_taken_by_other_work_is_refused(wanted: RunRequest):
    named = replace(wanted, run_id="mine")
    _planned(named)
    with pytest.raises(ConfigError, match="run mine was planned with other models or settings"):
        open_run(replace(named, policy=DenseTeacher()))


@pytest.mark.parametrize(("source", "corpus"), [("*.mp4", "films"), ("list.csv", "list"), ("", "films")])
def test_a_corpus_is_named_after_its_source(wanted: RunRequest, source: str, corpus: str):
    (Path(wanted.source) / "list.csv").write_text("uri\n0.mp4\n")
    plan = preview_run(replace(wanted, source=f"{wanted.source}/{source}"))
    assert isinstance(plan, LabelingPlan)
    assert plan.header.corpus == corpus


def test_what_a_user_got_wrong_is_found_before_anything_is_written(wanted: RunRequest, tmp_path: Path):
    with pytest.raises(SourceError):
        open_run(replace(wanted, source=str(tmp_path / "missing")))
    with pytest.raises(BundleError):
        open_run(replace(wanted, bundle=str(tmp_path / "films")))
    with pytest.raises(OutputError):
        open_run(replace(wanted, out=wanted.source))
    assert not Path(wanted.out).exists()


@pytest.mark.parametrize("wrong", [{"videos_per_shard": 0}, {"bytes_per_shard": 0}])
def test_a_shard_holds_at_least_something(wrong: dict[str, int]):
    with pytest.raises(ValueError, match="at least 1"):
        ShardingSettings(**wrong)


def test_the_status_of_an_open_and_of_a_finished_run(wanted: RunRequest):
    plan = _planned(wanted)
    before = read_status(wanted.out, None)
    assert (before.finished, before.videos_pending, before.shards, before.shards_done) == (False, 5, 3, 0)
    _label_all(wanted, plan)
    after = read_status(wanted.out, plan.header.run_id)
    assert (after.finished, after.videos_pending, after.videos_failed, after.shards_done) == (True, 0, 5, 3)
