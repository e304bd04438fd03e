"""The way of a bundle to MLflow and back, against a stand-in for MLflow's client with what is used of it."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdmodel.bundle import STUDENT_WEIGHTS, model_version, read_manifest
from cdmodel.errors import BundleError, ConfigError, RegistryError, StorageUnavailable, UsageError
from cdmodel.testing import write_tiny_bundle
from storage.registry import Registry, open_registry
from tasks.mlflow_registry import MlflowClient, MlflowServer, export_bundle, import_bundle, open_mlflow
from tasks.move_alias import Mover, promote_bundle


class Refused(Exception):
    """As MLflow's server says no."""


class Page(list[Any]):
    """Some of the answers, and where the next ones are."""

    token: str | None = None


@dataclass
class StandIn:
    """Keeps what MLflow would, and gives its answers a page of one at a time."""

    artifacts: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)
    models: dict[str, list[SimpleNamespace]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    down: bool = False

    def get_experiment_by_name(self, name: str) -> Any:
        if self.down:
            raise Refused("no connection")
        return SimpleNamespace(experiment_id=str(self.experiments.index(name))) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return str(len(self.experiments) - 1)

    def create_run(self, experiment_id: str, *, tags: dict[str, Any] | None = None, run_name: str | None = None) -> Any:
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {"tags": tags, "name": run_name, "experiment": experiment_id, "metrics": {}, "status": None}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, artifact_uri=f"file://{self.artifacts}/{run_id}"))

    def log_metric(self, run_id: str, key: str, value: float) -> None:
        self.runs[run_id]["metrics"][key] = value

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        assert artifact_path is not None
        shutil.copytree(local_dir, self.artifacts / run_id / artifact_path)

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        self.runs[run_id]["status"] = status

    def search_registered_models(self, filter_string: str | None = None) -> Any:
        return Page(name for name in self.models if filter_string == f"name='{name}'")

    def create_registered_model(self, name: str) -> Any:
        assert name not in self.models
        self.models[name] = []

    def search_model_versions(self, filter_string: str | None = None, *, page_token: str | None = None) -> Any:
        if self.down:
            raise Refused("no connection")
        found = next((versions for name, versions in self.models.items() if filter_string == f"name='{name}'"), [])
        at = int(page_token or 0)
        page = Page(found[at : at + 1])
        page.token = str(at + 1) if at + 1 < len(found) else None
        return page

    def create_model_version(
        self, name: str, source: str, run_id: str | None = None, tags: dict[str, Any] | None = None
    ) -> Any:
        assert source == f"file://{self.artifacts}/{run_id}/bundle"
        number = str(len(self.models[name]) + 1)
        self.models[name].append(SimpleNamespace(version=number, run_id=run_id, tags=dict(tags or {}), source=source))
        return self.models[name][-1]

    def set_model_version_tag(
        self, name: str, version: str | None = None, key: str | None = None, value: Any = None
    ) -> None:
        self.get_model_version(name, str(version)).tags[key] = value

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[name, alias] = version

    def get_model_version(self, name: str, version: str) -> Any:
        found = [one for one in self.models.get(name, []) if one.version == version]
        if not found:
            raise Refused(f"Model Version (name={name}, version={version}) not found")
        return found[0]

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        if (name, alias) not in self.aliases:
            raise Refused(f"Registered model alias {alias} not found")
        return self.get_model_version(name, self.aliases[name, alias])

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        assert dst_path is not None
        return str(shutil.copytree(self.artifacts / run_id / path, Path(dst_path) / path))


@pytest.fixture
def mlflow(tmp_path: Path) -> StandIn:
    return StandIn(artifacts=tmp_path / "mlflow")


@pytest.fixture
def server(mlflow: StandIn) -> MlflowServer:
    return MlflowServer(tracking_uri="http://mlflow", client=mlflow, errors=(Refused,))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two bundles, the first in production."""
    place = str(tmp_path / "models")
    for seed, alias in ((1, "candidate"), (0, "production")):
        write_tiny_bundle(tmp_path / str(seed), seed=seed)
        promote_bundle(place, str(tmp_path / str(seed)), alias, Mover(moved_by="me"))
    return open_registry(place)


def test_a_bundle_goes_to_mlflow_once_and_its_alias_with_it(registry, server, mlflow):
    version = registry.resolve("production")
    sent = export_bundle(registry.uri, "production", server, "birds")
    assert (sent.version, sent.model_version, sent.alias, sent.was_there) == ("1", version, "production", False)
    [kept] = mlflow.models["birds"]
    assert kept.tags == {
        "cdlabel.model_version": version,
        "cdlabel.registry": registry.uri,
        "cdlabel.alias": "production",
    }
    assert mlflow.aliases == {("birds", "production"): "1"}
    assert mlflow.runs[kept.run_id]["status"] == "FINISHED"
    metrics = registry.manifest(version).metrics
    assert mlflow.runs[kept.run_id]["metrics"] == {
        key: value for key, value in metrics.items() if isinstance(value, int | float)
    }
    other = export_bundle(registry.uri, registry.resolve("candidate"), server, "birds")
    assert (other.version, other.alias, other.was_there) == ("2", None, False)
    again = export_bundle(registry.uri, "candidate", server, "birds")
    assert (again.version, again.was_there) == ("2", True)
    assert mlflow.aliases == {("birds", "production"): "1", ("birds", "candidate"): "2"}
    assert (len(mlflow.runs), mlflow.experiments) == (2, ["birds"])


def test_a_bundle_comes_back_from_mlflow_as_it_went(registry, server, tmp_path):
    version = registry.resolve("production")
    export_bundle(registry.uri, "production", server, "birds")
    for name in ("birds@production", "birds/1"):
        elsewhere = open_registry(str(tmp_path / name.replace("/", "-")), create=True)
        added = import_bundle(elsewhere.uri, server, name)
        assert added.model_version == version
        assert read_manifest(Path(added.uri)) == registry.manifest(version)
        assert elsewhere.aliases() == ()


def test_an_export_that_broke_off_leaves_a_failed_run_and_no_version(registry, server, mlflow, monkeypatch):
    def breaks_off(*_: object) -> None:
        raise Refused("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "log_artifacts", breaks_off)
        with pytest.raises(StorageUnavailable, match="the network is gone"):
            export_bundle(registry.uri, "production", server, "birds")
    assert ([run["status"] for run in mlflow.runs.values()], mlflow.models) == (["FAILED"], {})
    assert export_bundle(registry.uri, "production", server, "birds").version == "1"


def test_what_is_not_there_or_not_ours_is_named(registry, server, mlflow, tmp_path):
    export_bundle(registry.uri, "production", server, "birds")
    for name in ("birds", "birds/latest", "birds/1/2", "@production"):
        with pytest.raises(ConfigError, match="MODEL/VERSION or MODEL@ALIAS"):
            import_bundle(registry.uri, server, name)
    for name in ("birds/7", "birds@nobody", "cats/1"):
        with pytest.raises(StorageUnavailable, match="not found"):
            import_bundle(registry.uri, server, name)
    with pytest.raises(ConfigError, match="has no '/'"):
        export_bundle(registry.uri, "production", server, "a/b")
    with pytest.raises(RegistryError, match="no alias nobody"):
        export_bundle(registry.uri, "nobody", server, "birds")
    [kept] = mlflow.models["birds"]
    kept.tags["cdlabel.model_version"] = "m-000000000000"
    with pytest.raises(BundleError, match="is tagged m-000000000000"):
        import_bundle(str(tmp_path / "new"), server, "birds/1")
    (mlflow.artifacts / kept.run_id / "bundle" / STUDENT_WEIGHTS).write_bytes(b"another student")
    with pytest.raises(BundleError, match="differ from the hash"):
        import_bundle(str(tmp_path / "new"), server, "birds/1")
    kept.run_id = ""
    with pytest.raises(BundleError, match="no run stands behind"):
        import_bundle(str(tmp_path / "new"), server, "birds/1")
    assert not (tmp_path / "new").exists()
    mlflow.down = True
    with pytest.raises(StorageUnavailable, match="http://mlflow: MLflow says: no connection"):
        export_bundle(registry.uri, "production", server, "birds")


def test_without_mlflow_its_commands_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"pip install 'cdlabel\[mlflow\]'"):
        open_mlflow("http://mlflow")


@pytest.fixture
def installed() -> Any:
    return pytest.importorskip("mlflow", reason="mlflow is not installed; it comes with the extra mlflow")


def _methods() -> Iterator[tuple[str, inspect.Signature]]:
    for name, method in vars(MlflowClient).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield name, inspect.signature(method)


def test_the_stand_in_has_what_is_used():
    for name, signature in _methods():
        theirs = inspect.signature(getattr(StandIn, name))
        assert list(theirs.parameters) == list(signature.parameters), name


@pytest.mark.filterwarnings("ignore")
def test_mlflows_own_client_takes_what_is_given(installed):
    for name, signature in _methods():
        theirs = inspect.signature(getattr(installed.MlflowClient, name)).parameters
        for parameter in signature.parameters.values():
            assert parameter.name in theirs, (name, parameter.name)
        positional = [one.name for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
        assert list(theirs)[: len(positional)] == positional, name


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_goes_to_a_real_mlflow_and_back(installed, registry, tmp_path):
    version = registry.resolve("production")
    server = open_mlflow(f"sqlite:///{tmp_path}/mlflow.db")
    server.client.create_experiment("birds", artifact_location=(tmp_path / "artifacts").as_uri())  # type: ignore[call-arg]
    assert export_bundle(registry.uri, "production", server, "birds").version == "1"
    assert export_bundle(registry.uri, "production", server, "birds").was_there
    for name in ("birds@production", "birds/1"):
        added = import_bundle(str(tmp_path / "elsewhere"), server, name)
        assert (added.model_version, model_version(read_manifest(Path(added.uri)))) == (version, version)
