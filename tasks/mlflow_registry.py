"""Bundles on their way to MLflow's model registry and back: as artifacts of a run that a model version names.

The only module that knows MLflow, an extra of its own: ``pip install 'cdlabel[mlflow]'``. What comes back is checked as
every bundle is; no MLflow code ever loads a model.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cdmodel.bundle import BundleManifest, model_version, read_manifest
from cdmodel.errors import BundleError, ConfigError, StorageUnavailable, UsageError
from storage.alias_history import is_version
from storage.bundles import local_bundle
from storage.registry import RegisteredBundle, open_registry

ARTIFACTS = "bundle"
"""Where the files of a bundle stand among the artifacts of its run."""
VERSION_TAG = "cdlabel.model_version"
ALIAS_TAG = "cdlabel.alias"
REGISTRY_TAG = "cdlabel.registry"
_MODEL_NAME = re.compile(r"[^/:@'\"`\\]+")
_MODEL_VERSION = re.compile(rf"(?P<model>{_MODEL_NAME.pattern})(?:/(?P<version>[0-9]+)|@(?P<alias>[^/:@]+))")


class MlflowClient(Protocol):
    """What is used of ``mlflow.MlflowClient``."""

    def get_experiment_by_name(self, name: str) -> Any: ...
    def create_experiment(self, name: str) -> str: ...
    def create_run(
        self, experiment_id: str, *, tags: dict[str, Any] | None = None, run_name: str | None = None
    ) -> Any: ...
    def log_metric(self, run_id: str, key: str, value: float) -> object: ...
    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None: ...
    def set_terminated(self, run_id: str, status: str | None = None) -> None: ...
    def search_registered_models(self, filter_string: str | None = None) -> Any: ...
    def create_registered_model(self, name: str) -> Any: ...
    def search_model_versions(self, filter_string: str | None = None, *, page_token: str | None = None) -> Any: ...
    def create_model_version(
        self, name: str, source: str, run_id: str | None = None, tags: dict[str, Any] | None = None
    ) -> Any: ...
    def set_model_version_tag(
        self, name: str, version: str | None = None, key: str | None = None, value: Any = None
    ) -> None: ...
    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None: ...
    def get_model_version(self, name: str, version: str) -> Any: ...
    def get_model_version_by_alias(self, name: str, alias: str) -> Any: ...
    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowServer:
    """A server to talk to, and the errors in which it says no."""

    tracking_uri: str
    client: MlflowClient
    errors: tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedBundle:
    """Where a bundle stands in MLflow."""

    model: str
    version: str
    """MLflow's number."""
    model_version: str
    alias: str | None
    """MLflow's alias that means it now; None where a version was exported by name."""
    was_there: bool
    """It had been exported before, and was not sent again."""


def open_mlflow(tracking_uri: str) -> MlflowServer:
    """Return the MLflow server at an address. Asks it nothing yet.

    Raises:
        UsageError: MLflow is not installed.
        StorageUnavailable: MLflow does not take the address.
    """
    try:
        mlflow = importlib.import_module("mlflow")
        refusals = importlib.import_module("mlflow.exceptions")
    except ImportError as error:
        raise UsageError("mlflow", "is not installed; pip install 'cdlabel[mlflow]'") from error
    errors = (refusals.MlflowException, OSError)
    with _translated(tracking_uri, errors):
        client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    return MlflowServer(tracking_uri=tracking_uri, client=client, errors=errors)


def export_bundle(registry_uri: str, name: str, server: MlflowServer, model: str) -> ExportedBundle:
    """Put a bundle of the registry into MLflow, unless it is there; if it is named by an alias, MLflow's alias follows.

    A run of the experiment ``model`` gets the bundle's files as artifacts and its figures as metrics, and the new version of
    the registered model names that run. A kill leaves at worst a run that no version names.

    Raises:
        ConfigError: MLflow takes no such model name.
        RegistryError: no such bundle.
        BundleError: the bundle is damaged.
        StorageUnavailable: MLflow does not answer, or refuses.
    """
    if _MODEL_NAME.fullmatch(model) is None:
        raise ConfigError(f"--model {model}", "a registered model's name has no '/', ':', '@', quote or backslash")
    registry = open_registry(registry_uri)
    version = registry.resolve(name)
    folder = local_bundle(registry.bundle_uri(version))
    manifest = read_manifest(folder)
    alias = None if is_version(name) else name
    client = server.client
    tags = {VERSION_TAG: version, REGISTRY_TAG: registry.uri}
    with _translated(server.tracking_uri, server.errors):
        there = _find_version(client, model, version)
        number = there or _send(client, model, folder, manifest, tags)
        if alias is not None:
            client.set_model_version_tag(model, number, ALIAS_TAG, alias)
            client.set_registered_model_alias(model, alias, number)
    return ExportedBundle(model=model, version=number, model_version=version, alias=alias, was_there=there is not None)


def import_bundle(registry_uri: str, server: MlflowServer, model: str) -> RegisteredBundle:
    """Add the bundle of a model version, named ``MODEL/VERSION`` or ``MODEL@ALIAS``, to the registry. No alias moves.

    Raises:
        ConfigError: the name is of neither form.
        BundleError: no bundle stands there, or another one than the version's tag says, or a damaged one.
        RegistryError: the place is no registry.
        StorageError: MLflow or the registry does not answer, or refuses.
    """
    asked = _MODEL_VERSION.fullmatch(model)
    if asked is None:
        raise ConfigError(
            f"--model {model}", "must have the form MODEL/VERSION or MODEL@ALIAS, such as birds@production"
        )
    with tempfile.TemporaryDirectory(prefix="cdlabel-mlflow-") as scratch:
        with _translated(server.tracking_uri, server.errors):
            found = _named_version(server.client, asked)
            if not found.run_id:
                raise BundleError(model, "is no bundle of ours: no run stands behind this model version")
            folder = Path(server.client.download_artifacts(found.run_id, ARTIFACTS, scratch))
        version = model_version(read_manifest(folder))
        promised = found.tags.get(VERSION_TAG, version)
        if promised != version:
            raise BundleError(model, f"is tagged {promised}, but what stands there is {version}")
        return open_registry(registry_uri, create=True).add(folder)


def _find_version(client: MlflowClient, model: str, version: str) -> str | None:
    """Return MLflow's number of a bundle that was exported before."""
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name='{model}'", page_token=token)
        for found in page:
            if found.tags.get(VERSION_TAG) == version:
                return str(found.version)
        token = page.token
        if not token:
            return None


def _send(client: MlflowClient, model: str, folder: Path, manifest: BundleManifest, tags: Mapping[str, str]) -> str:
    experiment = client.get_experiment_by_name(model)
    experiment_id = client.create_experiment(model) if experiment is None else experiment.experiment_id
    run = client.create_run(experiment_id, tags=dict(tags), run_name=tags[VERSION_TAG])
    run_id = run.info.run_id
    status = "FAILED"
    try:
        for key, value in manifest.metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                client.log_metric(run_id, key, float(value))
        client.log_artifacts(run_id, str(folder), ARTIFACTS)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    if not client.search_registered_models(f"name='{model}'"):
        client.create_registered_model(model)
    source = f"{run.info.artifact_uri}/{ARTIFACTS}"
    return str(client.create_model_version(model, source, run_id, tags=dict(tags)).version)


def _named_version(client: MlflowClient, asked: re.Match[str]) -> Any:
    if asked["alias"] is not None:
        return client.get_model_version_by_alias(asked["model"], asked["alias"])
    return client.get_model_version(asked["model"], asked["version"])


@contextmanager
def _translated(tracking_uri: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise StorageUnavailable(tracking_uri, f"MLflow says: {error}") from error
