"""Give a bundle that was trained before bundles remembered it what the confidence of its models looked like.

``cdlabel train`` does the same at once; neither network nor calibration changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cdmodel.bundle import model_version, training_seed, write_manifest
from cdmodel.decision_fit import measure_confidence
from cdmodel.errors import SourceError, VideoError
from cdmodel.models import CascadeModels, load_bundle
from cdmodel.replay import ScoredVideo, calibrate
from cdmodel.splits import assign_roles
from cdmodel.types import LabeledVideo
from storage.dataset import read_dataset
from tasks.score_dataset import score_one


def add_reference(folder: str, dataset: str) -> str:
    """Write the reference into ``bundle.json`` and return the bundle's new version.

    Args:
        folder: the bundle, local.
        dataset: the data set that it was trained on; the videos of its role ``cal`` are scored by both models.

    Raises:
        BundleError: the bundle is damaged.
        SourceError: the data set cannot be read, or not one video of the role.
    """
    models = load_bundle(Path(folder))
    manifest = models.manifest
    found = read_dataset(dataset, label_kind=manifest.label_kind)
    cal = [video for video in assign_roles(found.videos, training_seed(manifest)) if video.split == "cal"]
    scored = list(_score(cal, models))
    if not scored:
        raise SourceError(dataset, f"not one of the {len(cal)} videos in the role cal can be read")
    complete = replace(manifest, reference=measure_confidence(scored))
    write_manifest(Path(folder), complete)
    return model_version(complete)


def _score(videos: list[LabeledVideo], models: CascadeModels) -> Iterator[ScoredVideo]:
    manifest = models.manifest
    for video in videos:
        try:
            entry = score_one(video, models, manifest.sampling)
        except VideoError:
            continue  # as in training: what cannot be read is left out
        yield calibrate(entry.answers, manifest.calibration, manifest.label_kind)
