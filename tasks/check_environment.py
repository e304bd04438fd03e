"""What ``cdlabel doctor`` looks at: everything a run needs, tried for real and without leaving anything behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from cdmodel.bundle import model_version, read_manifest
from cdmodel.decode import ClipReader
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.encode import encode_mp4
from cdmodel.errors import LabelingError
from cdmodel.models import count_gpus, load_bundle, pick_device
from cdmodel.sampling import ClipGeometry, ClipSampling
from storage.bundles import local_bundle
from storage.filesystem import open_store
from storage.output import check_output, check_writable

PACKAGES = ("torch", "prefect", "distributed", "pyarrow", "s3fs", "av", "duckdb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str


def check_environment(out: str | None, bundle: str | None) -> tuple[Check, ...]:
    """Try packages, decoder, models and device, and OUT where one is named. Failures are findings, not errors."""
    checks = [
        _try("packages", lambda: ", ".join(f"{package} {version(package)}" for package in PACKAGES)),
        _try("decoder", _decode_something),
        _try("device", lambda: f"{pick_device()}, {count_gpus()} GPUs"),
        _try("models", lambda: _score_something(bundle)),
    ]
    if out is not None:
        checks.append(_try("output", lambda: _use_output(out)))
    return tuple(checks)


def _try(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, detail=attempt())
    except (LabelingError, ImportError, OSError, RuntimeError) as error:
        return Check(name=name, ok=False, detail=str(error))


def _decode_something() -> str:
    frames = [np.full((64, 64, 3), 8 * index, dtype=np.uint8) for index in range(16)]
    reader = ClipReader(io.BytesIO(encode_mp4(frames, 16)), "a generated video", ClipSampling())
    clips = sum(len(batch.spans) for batch in reader.read_clips(ClipGeometry(frames=4, height=32, width=32)))
    return f"{DECODER_NAME}, {clips} clip encoded and decoded"


def _score_something(bundle: str | None) -> str:
    folder = local_bundle(bundle)
    models = load_bundle(folder, pick_device())
    geometry = models.student.geometry
    models.student.score(np.zeros((1, geometry.frames, 3, geometry.height, geometry.width), dtype=np.uint8))
    share = models.student.flops_per_clip / models.teacher.flops_per_clip
    version_name = model_version(read_manifest(folder))
    return f"{version_name}, {len(models.manifest.labels)} labels, a student clip takes {share:.1%} of a teacher clip's FLOPs"


def _use_output(out: str) -> str:
    store = open_store(out)
    check_output(store)
    honoured = check_writable(store)
    return f"{store.root} can be written, create-only writes are {'honoured' if honoured else 'NOT honoured'}"
