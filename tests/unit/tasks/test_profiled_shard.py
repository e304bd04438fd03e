"""What a worker tells of a shard besides its receipt: the same seconds, each within what it was part of."""

from __future__ import annotations

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
from cdmodel.types import Shard, VideoRef
from storage.filesystem import open_store
from storage.run_store import read_receipt
from tasks.label_shard import LabelingSpec, label_shard
from tasks.profiled_shard import Profiled, profile_shard, this_thread

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
        cascade=CascadeSettings(policy=TopGain(max_clips=1), aggregation=manifest.default_aggregation),
        limits=DecodeLimits(isolated=False),
        prices=None,
    )
