from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cdmodel.audit_draw import AuditSettings
from cdmodel.budget import Allotment
from cdmodel.bundle import model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.cost import PriceTable, cpu_seconds
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import BundleError, ConfigError
from cdmodel.nvdec import NvdecPictures, find_gpu
from cdmodel.policies import DenseStudent, DenseTeacher
from cdmodel.sampling import ClipSampling
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import Shard, VideoRef
from storage.attempt_log import open_attempt, read_attempts
from storage.filesystem import open_store
from storage.parquet import open_parquet
from storage.run_layout import shard_name
from storage.run_store import read_receipt
from tasks.label_shard import LabelingSpec, label_shard
from tasks.score_shard import score_shard
from tasks.worker_models import WorkerModels, load_worker_models

CLIPS = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_tiny_bundle(folder)
    return folder


@pytest.fixture
def spec(tmp_path, bundle) -> LabelingSpec:
    manifest = read_manifest(bundle)
    version = model_version(manifest)
    return LabelingSpec(
        out=str(tmp_path / "out"),
        run_id="run",
        launch_id="launch",
        run_date=date(2026, 1, 2),
        corpus="videos",
        fingerprint="f1",
        models=WorkerModels(bundle=str(bundle), model_version=version, allowed_builders=(), model_threads=None),
        sampling=ClipSampling(),
        cascade=CascadeSettings(policy=DenseTeacher(), aggregation=manifest.default_aggregation),
        limits=DecodeLimits(isolated=False),
        prices=PriceTable(usd_per_gpu_hour=1.0, usd_per_cpu_hour=1.0),
    )


@pytest.fixture
def shard(tmp_path) -> Shard:
    contents = {"broken.mp4": b"no video" * 100, "good.mkv": encode_numbered_clips(CLIPS), "missing.mp4": None}
    videos = []
    for name, content in contents.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        size_bytes = None if content is None else len(content)
        videos.append(VideoRef(video_id=name, uri=str(path), video_version="1", size_bytes=size_bytes))
    return Shard(shard_id="s0", videos=tuple(videos))


def _rows(spec: LabelingSpec, shard: Shard) -> dict[str, dict[str, object]]:
    with open_parquet(open_store(spec.out), shard_name(spec.run_id, shard.shard_id)) as file:
        return {row["video_id"]: row for row in file.read().to_pylist()}


def test_every_video_becomes_a_row_whatever_is_wrong_with_it(spec, shard):
    receipt = label_shard(shard, spec)
    assert (receipt.videos_labeled, receipt.videos_partial, receipt.videos_failed) == (1, 0, 2)
    assert (receipt.clips_planned, receipt.clips_student, receipt.clips_teacher) == (CLIPS, 0, CLIPS)
    rows = _rows(spec, shard)
    assert {video_id: row["error_kind"] for video_id, row in rows.items()} == {
        "broken.mp4": "unreadable",
        "good.mkv": None,
        "missing.mp4": "not_found",
    }
    assert rows["good.mkv"]["label"] in ("left", "right", "still")


def test_the_receipt_is_what_stands_in_the_committed_object(spec, shard):
    receipt = label_shard(shard, spec)
    assert read_receipt(open_store(spec.out), spec.run_id, shard.shard_id) == receipt
    assert receipt.cost.bytes_read >= shard.videos[1].size_bytes

    assert receipt.cost.frames_decoded == 8 * CLIPS
    assert receipt.cost.teacher_flops == receipt.cost.dense_teacher_flops > 0
    assert receipt.cost.wall_seconds > 0


def test_the_price_of_a_shard_is_that_of_its_rows(spec, shard):
    receipt = label_shard(shard, spec)
    assert receipt.cost_usd == pytest.approx(sum(row["cost_usd"] for row in _rows(spec, shard).values()))
    assert receipt.cost_usd > 0


def test_a_worker_whose_device_has_no_price_labels_nothing(spec, shard, monkeypatch):
    models = replace(load_worker_models(spec.models), device_name="cuda:NVIDIA L4")
    monkeypatch.setattr("tasks.label_shard.load_worker_models", lambda _: models)
    prices = PriceTable(usd_per_cpu_hour=1.0)
    with pytest.raises(ConfigError, match="NVIDIA L4"):
        label_shard(shard, replace(spec, prices=prices))
    assert not open_store(spec.out).exists(shard_name(spec.run_id, shard.shard_id))


def test_what_the_students_pass_took_is_in_the_cost_of_a_shard_and_not_in_its_stages(spec, shard):
    spec = replace(spec, worker_cores=1)
    taken = score_shard(shard, spec)
    receipt = label_shard(shard, spec, Allotment(clips={1: (0, 2)}, allowance={}, price={}, deadline=None))
    assert receipt.clips_teacher == 2
    assert taken.stages.cores == pytest.approx(cpu_seconds(taken.cost))
    assert receipt.stages.cores == pytest.approx(cpu_seconds(receipt.cost) - cpu_seconds(taken.cost))
    assert (taken.stages.teacher, receipt.stages.student) == (0.0, 0.0)


def test_a_worker_with_two_threads_loads_its_models_once(spec):
    wanted = replace(spec.models, model_threads=1)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(load_worker_models, [wanted, wanted])
    assert one is other


def test_a_shard_that_stands_is_not_labeled_again(spec, shard):
    first, second = label_shard(shard, spec), label_shard(shard, spec)
    assert second == first
    assert len(read_attempts(open_store(spec.out), spec.run_id, shard.shard_id)) == 1


def test_a_limit_that_a_video_exceeds_fails_that_video_alone(spec, shard):
    limited = replace(spec, limits=DecodeLimits(max_frame_pixels=10, isolated=False))
    receipt = label_shard(shard, limited)
    assert receipt.videos_failed == 3
    row = _rows(limited, shard)["good.mkv"]
    assert row["error_kind"] == "too_large"
    assert (row["width"], row["height"]) == (64, 48)


def test_a_worker_that_finds_another_bundle_refuses_to_label(spec, shard):
    other = replace(spec, models=replace(spec.models, model_version="m-other"))
    with pytest.raises(BundleError, match="m-other"):
        label_shard(shard, other)
    assert not list(Path(spec.out).rglob("*.parquet"))


@pytest.mark.skipif(isinstance(find_gpu(), NvdecPictures), reason="this machine has a CUDA device")
@pytest.mark.parametrize("isolated", [True, False])
def test_where_a_gpu_is_taken_if_there_is_one_the_row_says_that_there_was_none(spec, shard, isolated):
    label_shard(shard, replace(spec, limits=DecodeLimits(isolated=isolated, device="auto")))
    rows = _rows(spec, shard)
    good, broken = rows["good.mkv"], rows["broken.mp4"]
    assert (good["decode_mode"], good["decode_fallback"]) == ("planned", "this worker sees no CUDA device")
    assert (broken["decode_mode"], broken["error_kind"]) == (None, "unreadable")


@pytest.mark.skipif(isinstance(find_gpu(), NvdecPictures), reason="this machine has a CUDA device")
def test_a_worker_that_must_have_a_gpu_and_has_none_says_so_before_any_video(spec, shard):
    with pytest.raises(ConfigError, match=r"^decode\.device: is .cuda., but this worker sees no CUDA device"):
        label_shard(shard, replace(spec, limits=DecodeLimits(device="cuda")))
    assert not list(Path(spec.out).rglob("*.parquet"))


@pytest.mark.gpu
@pytest.mark.skipif(not isinstance(find_gpu(), NvdecPictures), reason="needs a CUDA device")
def test_a_row_says_that_a_gpu_has_decoded_its_video(spec, shard):
    label_shard(shard, replace(spec, limits=DecodeLimits(device="cuda")))
    good = _rows(spec, shard)["good.mkv"]
    assert (good["decode_mode"], good["decode_fallback"]) == ("nvdec", None)


def _audited(spec: LabelingSpec, out: str) -> LabelingSpec:
    """Audit everything under a policy that asks the teacher nothing."""
    return replace(spec, out=out, audit=AuditSettings(share=1.0), cascade=replace(spec.cascade, policy=DenseStudent()))


def test_an_audited_row_is_the_row_that_stands_without_the_audit_and_what_the_audit_found(spec, shard, tmp_path):
    audited = _audited(spec, str(tmp_path / "audited"))
    alone = replace(audited, out=str(tmp_path / "alone"), audit=AuditSettings(share=0.0))
    receipt = label_shard(shard, audited)
    label_shard(shard, alone)
    label_shard(shard, spec)  # the dense teacher
    ours, theirs, dense = (_rows(of, shard)["good.mkv"] for of in (audited, alone, spec))
    of_the_audit = {"audited", "teacher_label_id", "audit_flops", "audit_seconds"}
    measured = {name for name in ours if name.endswith("_seconds") and name != "duration_seconds"}
    others = set(ours) - of_the_audit - measured - {"attempt_id", "labeled_at", "cost_usd"}
    assert {name: ours[name] for name in others} == {name: theirs[name] for name in others}
    assert (ours["audited"], ours["teacher_label_id"]) == (True, dense["label_id"])
    assert ours["audit_flops"] == dense["teacher_flops"]
    assert [theirs[name] for name in sorted(of_the_audit)] == [None, None, False, None]
    assert (receipt.student_confidence.videos, receipt.teacher_confidence.videos) == (1, 1)
    assert sum(receipt.teacher_confidence.clips_B) == CLIPS
    assert (receipt.videos_labeled, receipt.videos_failed) == (1, 2), "what fails is not audited"
    assert [_rows(audited, shard)[name]["audited"] for name in ("broken.mp4", "missing.mp4")] == [False, False]


def test_where_a_worker_has_died_the_next_one_labels_without_the_audit(spec, shard, tmp_path):
    audited = _audited(spec, str(tmp_path / "audited"))
    store = open_store(audited.out)
    open_attempt(store, spec.run_id, shard.shard_id, launch_id=spec.launch_id, attempt_id="dead")
    label_shard(shard, audited)
    row = _rows(audited, shard)["good.mkv"]
    assert (row["status"], row["audited"], row["audit_seconds"]) == ("labeled", False, None)


def test_a_run_that_goes_on_after_its_flow_has_died_audits_as_before(spec, shard, tmp_path):
    audited = _audited(spec, str(tmp_path / "audited"))
    store = open_store(audited.out)
    open_attempt(store, spec.run_id, shard.shard_id, launch_id="an earlier launch", attempt_id="dead")
    label_shard(shard, audited)
    assert _rows(audited, shard)["good.mkv"]["audited"] is True
