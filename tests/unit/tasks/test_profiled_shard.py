"""What a worker tells of a shard besides its receipt: the same seconds, each within what it was part of."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cdmodel.bundle import model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeLimits
from cdmodel.policies import TopGain
from cdmodel.sampling import ClipSampling
from cdmodel.stretches import Stretch
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import Shard, ShardReceipt, VideoRef
from storage.filesystem import open_store
from storage.parquet import open_parquet
from storage.run_layout import shard_name
from storage.run_store import read_receipt
from tasks.label_shard import LabelingSpec, label_shard
from tasks.profiled_shard import Profiled, profile_shard, this_thread
from tasks.worker_models import WorkerModels

CLIPS = 3


@pytest.fixture
def spec(tmp_path: Path) -> LabelingSpec:
    bundle = tmp_path / "bundle"
    write_tiny_bundle(bundle)
    manifest = read_manifest(bundle)
    return LabelingSpec(
        out=str(tmp_path / "out"),
        run_id="run",
        launch_id="launch",
        run_date=date(2026, 1, 2),
        corpus="videos",
        fingerprint="f1",
        models=WorkerModels(
            bundle=str(bundle), model_version=model_version(manifest), allowed_builders=(), model_threads=None
        ),
        sampling=ClipSampling(),
        cascade=CascadeSettings(policy=TopGain(clips=1), aggregation=manifest.default_aggregation),
        limits=DecodeLimits(isolated=False),
        prices=None,
    )


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    videos = []
    for name, content in {"broken.mp4": b"no video" * 100, "good.mkv": encode_numbered_clips(CLIPS)}.items():
        (tmp_path / name).write_bytes(content)
        uri = str(tmp_path / name)
        videos.append(VideoRef(video_id=name, uri=uri, video_version="1", size_bytes=len(content)))
    return Shard(shard_id="s0", videos=tuple(videos))


@pytest.fixture
def profiled(shard: Shard, spec: LabelingSpec) -> Profiled[ShardReceipt]:
    return profile_shard(label_shard, "label", shard, spec)


def _of(profiled: Profiled[ShardReceipt], track: str) -> list[Stretch]:
    return [stretch for stretch in profiled.stretches if stretch.track == track]


def test_the_stretches_of_the_models_are_the_seconds_of_the_receipt(profiled: Profiled[ShardReceipt]) -> None:
    stages = profiled.receipt.stages
    assert stages.student > 0
    assert sum(one.busy_ns for one in _of(profiled, "student")) / 1e9 == pytest.approx(stages.student, abs=1e-6)
    assert sum(one.busy_ns for one in _of(profiled, "teacher")) / 1e9 == pytest.approx(stages.teacher, abs=1e-6)


def test_every_stretch_lies_within_what_it_is_part_of(profiled: Profiled[ShardReceipt]) -> None:
    (whole,) = _of(profiled, "shard")
    assert whole is profiled.stretches[-1]
    assert all(_lies_within(one, whole) for one in profiled.stretches)
    videos = _of(profiled, "video")
    assert [video.name for video in videos] == ["broken.mp4", "good.mkv"]
    for track in ("student", "teacher"):
        assert _of(profiled, track)
        assert all(_lies_within(one, videos[1]) for one in _of(profiled, track))
    (commit,) = _of(profiled, "commit")
    assert commit.began_ns >= videos[-1].ended_ns


def test_a_video_tells_what_its_decoder_took_or_why_it_failed(profiled: Profiled[ShardReceipt]) -> None:
    broken, good = _of(profiled, "video")
    assert broken.facts["error_kind"] == "unreadable"
    assert good.facts["decode_cpu_seconds"] == pytest.approx(profiled.receipt.cost.decode_cpu_seconds, rel=0.5)
    assert _of(profiled, "decoder")


def test_rows_and_receipt_are_those_of_a_shard_that_nobody_profiles(
    profiled: Profiled[ShardReceipt], shard: Shard, spec: LabelingSpec, tmp_path: Path
) -> None:
    assert read_receipt(open_store(spec.out), spec.run_id, shard.shard_id) == profiled.receipt
    plain = replace(spec, out=str(tmp_path / "plain"))
    label_shard(shard, plain)
    assert _decided(plain) == _decided(spec)


def test_it_says_who_did_it(profiled: Profiled[ShardReceipt]) -> None:
    assert profiled.worker == this_thread()
    assert profiled.stretches[-1].facts == {"work": "label", "videos": 2}


def _decided(spec: LabelingSpec) -> list[dict[str, object]]:
    columns = ["video_id", "label", "confidence", "status", "clips", "student_flops", "teacher_flops", "frames_decoded"]
    with open_parquet(open_store(spec.out), shard_name(spec.run_id, "s0")) as file:
        rows: list[dict[str, object]] = file.read(columns=columns).to_pylist()
    return rows


def _lies_within(inner: Stretch, outer: Stretch) -> bool:
    return outer.began_ns <= inner.began_ns and inner.ended_ns <= outer.ended_ns
