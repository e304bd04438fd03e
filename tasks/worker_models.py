"""The models of a worker process: loaded once, kept for every shard it gets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from cdmodel.errors import BundleError
from cdmodel.models import CascadeModels, limit_threads, load_bundle, pick_device
from cdmodel.stretches import stretch
from storage.bundles import local_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerModels:
    """Which models a worker needs, and how much of the machine they may use."""

    bundle: str | None
    """Folder or URL; None is the bundle that ships with the project."""
    model_version: str
    """What the bundle must turn out to be on the worker too."""
    allowed_builders: tuple[str, ...]
    model_threads: int | None
    """CPU threads of one worker's models; None leaves torch's own choice."""


_LOADING = Lock()
"""A worker that has several threads loads its models once, too."""


def load_worker_models(wanted: WorkerModels) -> CascadeModels:
    """Load the bundle onto this process's device, or return it if it is already there.

    Raises:
        BundleError: the bundle cannot be loaded here, or is not the version the run was planned with.
    """
    with _LOADING:
        return _load(wanted)


@lru_cache(maxsize=1)
@stretch("models", "load")
def _load(wanted: WorkerModels) -> CascadeModels:
    if wanted.model_threads is not None:
        limit_threads(wanted.model_threads)
    models = load_bundle(local_bundle(wanted.bundle), pick_device(), wanted.allowed_builders)
    if models.model_version != wanted.model_version:
        raise BundleError(
            wanted.bundle or "the demo bundle",
            f"this worker finds version {models.model_version}, the run was planned with {wanted.model_version}",
        )
    return models
