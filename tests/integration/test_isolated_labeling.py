"""A shard with videos that attack the decoder, on a real Dask worker: all rows are there, the worker is the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import hostile_videos
import psutil
import pytest

from cdmodel.bundle import model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeLimits
from cdmodel.policies import DenseStudent, VideoRank
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import Shard, ShardReceipt, VideoRef
from flows.dispatch import Cluster, ClusterSettings, Completed, open_cluster, run_on_workers
from storage.filesystem import open_store
from storage.parquet import open_parquet
from storage.run_layout import shard_name
from tasks import worker_decoder
from tasks.label_shard import LabelingSpec, label_shard
from tasks.worker_models import WorkerModels

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

CLIPS = 3
EXPECTED = {
    "good-1.mkv": None,
    "native hang.mkv": "decode_timeout",
    "good-2.mkv": None,
    "segfault.mkv": "decoder_crashed",
    "grow.mkv": "too_large",
    "store.mkv": "storage_error",
    "good-3.mkv": None,
}


@dataclass(frozen=True)
class Labeled:
    """What a worker has to tell of a shard."""

    receipt: ShardReceipt
    worker: int
    decoders: int


MEASURED = {
    "attempt_id",
    "labeled_at",
    "wall_seconds",
    "decode_cpu_seconds",
    "dense_decode_cpu_seconds",
    "student_seconds",
}
"""Columns that no two runs agree on."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with open_cluster(ClusterSettings(workers=1), gpus=0) as cluster:
        yield cluster


@pytest.fixture
def spec(tmp_path: Path) -> LabelingSpec:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_tiny_bundle(bundle)
    manifest = read_manifest(bundle)
    version = model_version(manifest)
    return LabelingSpec(
        out=str(tmp_path / "out"),
        run_id="run",
        launch_id="launch",
        run_date=date(2026, 1, 2),
        corpus="videos",
        fingerprint="f1",
        models=WorkerModels(bundle=str(bundle), model_version=version, allowed_builders=(), model_threads=1),
        sampling=manifest.sampling,
        cascade=CascadeSettings(policy=DenseStudent(), aggregation=manifest.default_aggregation),
        limits=DecodeLimits(stall_seconds=2.0, max_memory_bytes=2**28),
        prices=None,
    )


def _shard(folder: Path, shard_id: str, names: list[str]) -> Shard:
    for name in names:
        (folder / name).write_bytes(encode_numbered_clips(CLIPS))
    videos = (VideoRef(video_id=name, uri=str(folder / name), video_version="1", size_bytes=None) for name in names)
    return Shard(shard_id=shard_id, videos=tuple(videos))


def label_under_attack(work: tuple[Shard, LabelingSpec]) -> Labeled:
    worker_decoder.open_video = hostile_videos.open_or_be_struck
    receipt = label_shard(*work)
    children = psutil.Process().children()
    decoders = sum("cdmodel.decoder_child" in child.cmdline() for child in children if child.status() != "zombie")
    return Labeled(receipt, os.getpid(), decoders)


def _rows(spec: LabelingSpec, shard: Shard) -> dict[str, dict[str, object]]:
    with open_parquet(open_store(spec.out), shard_name(spec.run_id, shard.shard_id)) as file:
        return {row["video_id"]: row for row in file.read().to_pylist()}


def test_videos_that_attack_the_decoder_cost_their_own_rows_and_the_worker_goes_on(
    cluster: Cluster, spec: LabelingSpec, tmp_path: Path
) -> None:
    poisoned = _shard(tmp_path, "s0", list(EXPECTED))
    following = _shard(tmp_path, "s1", ["good-4.mkv"])
    works = iter([("first", (poisoned, spec)), ("second", (following, spec))])
    outcomes = list(run_on_workers(cluster, label_under_attack, works))
    labeled = [outcome.result for outcome in outcomes if isinstance(outcome, Completed)]
    assert len(labeled) == 2
    assert len({result.worker for result in labeled}) == 1
    assert [result.decoders for result in labeled] == [1 + spec.videos_ahead] * 2

    rows = _rows(spec, poisoned)
    assert {video_id: row["error_kind"] for video_id, row in rows.items()} == EXPECTED
    assert rows["native hang.mkv"]["error_message"] == "no progress for 2 s (decode.stall_seconds)"
    assert rows["segfault.mkv"]["error_message"] == "the decoder died of signal SIGSEGV"
    assert rows["segfault.mkv"]["decode_cpu_seconds"] > 0
    assert rows["good-3.mkv"]["label"] == rows["good-1.mkv"]["label"] is not None
    assert _rows(spec, following)["good-4.mkv"]["status"] == "labeled"


def test_a_row_is_the_same_whichever_process_decoded(spec: LabelingSpec, tmp_path: Path) -> None:
    shard = _shard(tmp_path, "s0", ["good.mkv"])
    here = replace(spec, out=str(tmp_path / "here"), limits=DecodeLimits(isolated=False))
    label_shard(shard, spec)
    label_shard(shard, here)
    [isolated], [in_process] = _rows(spec, shard).values(), _rows(here, shard).values()
    differing = {name for name in isolated if isolated[name] != in_process[name]}
    assert differing <= MEASURED


def test_videos_that_share_the_models_get_the_rows_that_they_get_alone(spec: LabelingSpec, tmp_path: Path) -> None:
    shard = _shard(tmp_path, "s0", [f"good-{number}.mkv" for number in range(7)])
    broken = Path(shard.videos[2].uri)
    broken.write_bytes(broken.read_bytes()[:200])
    asking = replace(spec.cascade, policy=VideoRank(min_value=0.5))
    rows = []
    for videos_at_once in (1, 3):
        one = replace(spec, out=str(tmp_path / f"out-{videos_at_once}"), cascade=asking, videos_at_once=videos_at_once)
        receipt = label_shard(shard, one)
        rows.append(_rows(one, shard))
        assert receipt.cost.student_seconds == pytest.approx(
            sum(row["student_seconds"] for row in rows[-1].values()), rel=1e-6
        )
    alone, together = rows
    assert alone.keys() == together.keys()
    assert sum(row["clips_teacher"] or 0 for row in alone.values()) > 0
    # Which videos were labeled before decides how a video is read; a batch of another size rounds otherwise.
    measured = {*MEASURED, "teacher_seconds", "frames_decoded", "packets_read", "decode_mode"}
    for video_id, row in alone.items():
        for name in row.keys() - measured - {"clip_scores"}:
            assert together[video_id][name] == _about(row[name]), (video_id, name)


def _about(value: object) -> object:
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_rows_do_not_depend_on_how_many_videos_are_read_ahead(spec: LabelingSpec, tmp_path: Path) -> None:
    shard = _shard(tmp_path, "s0", [f"good-{number}.mkv" for number in range(5)])
    broken = Path(shard.videos[2].uri)
    broken.write_bytes(broken.read_bytes()[:200])
    rows = []
    for videos_ahead in (0, 1, 3):
        one = replace(spec, out=str(tmp_path / f"out-{videos_ahead}"), videos_ahead=videos_ahead)
        label_shard(shard, one)
        rows.append(
            {name: {k: v for k, v in row.items() if k not in MEASURED} for name, row in _rows(one, shard).items()}
        )
    assert rows[0] == rows[1] == rows[2]
    assert [row["status"] for row in rows[0].values()].count("failed") == 1
