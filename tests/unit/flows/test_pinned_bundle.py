"""A run keeps the bundle that an alias meant when it was planned, however often the alias moves before it is finished."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cdmodel.errors import ConfigError, RegistryError
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from flows.config import LabelRunConfig, load_config, to_json, to_request
from flows.dispatch import Cluster
from flows.label import labeling_spec
from flows.retry_command import _find_finished, _retry_config
from storage.filesystem import open_store
from storage.registry import Registry, open_registry
from storage.run_layout import config_name
from storage.run_store import committed_shards, iter_shards
from storage.views import run_query
from tasks.finish_run import publish_and_record
from tasks.label_shard import label_shard
from tasks.move_alias import Mover, promote_bundle, roll_back
from tasks.plan_run import open_run, preview_run
from tasks.run_request import LabelingPlan, NothingToDo

NO_CLUSTER = Cluster(
    client=None,
    model_threads=1,
    worker_cores=None,
    videos_at_once=1,
    videos_ahead=0,
    address="nowhere",
    dashboard=None,
    shards_in_flight_per_worker=1,
    worker_wait_seconds=1.0,
    resources={},
)

VIDEOS = 3
ME = Mover(moved_by="me")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in range(2):
        write_tiny_bundle(folder / str(seed), seed=seed)
    return folder / "0", folder / "1"


@pytest.fixture
def registry(tmp_path: Path, bundles: tuple[Path, Path]) -> Registry:
    """The first bundle is in production, the second one is there."""
    place = str(tmp_path / "models")
    promote_bundle(place, str(bundles[1]), "candidate", ME)
    promote_bundle(place, str(bundles[0]), "production", ME)
    return open_registry(place)


@pytest.fixture
def config(tmp_path: Path, registry: Registry) -> LabelRunConfig:
    films = tmp_path / "films"
    films.mkdir()
    for number in range(VIDEOS):
        (films / f"{number}.mkv").write_bytes(encode_numbered_clips(2))
    (films / "broken.mkv").write_bytes(b"no video")
    settings = {"source": str(films), "out": str(tmp_path / "out"), "models.bundle": f"{registry.uri}@production"}
    return load_config(None, ["sharding.videos_per_shard=1", "decode.isolated=false"], settings)


def _planned(config: LabelRunConfig) -> LabelingPlan:
    plan = open_run(to_request(config))
    assert isinstance(plan, LabelingPlan)
    return plan


def _label(config: LabelRunConfig, plan: LabelingPlan, *, shards: int = 100) -> None:
    """Label some of the shards, as workers do that know nothing but their ``LabelingSpec``; publish after the last one."""
    store, run_id = open_store(config.out), plan.header.run_id
    spec = labeling_spec(config, plan, NO_CLUSTER)
    done = committed_shards(store, run_id)
    for shard in [shard for shard in iter_shards(store, run_id) if shard.shard_id not in done][:shards]:
        label_shard(shard, spec)
    if len(committed_shards(store, run_id)) == plan.header.shards:
        publish_and_record(config.out, run_id, config_json=to_json(config), code_version="0")


def _versions(config: LabelRunConfig) -> list[tuple[object, ...]]:
    sql = "select run_id, model_version, count(*) from predictions group by all order by min(labeled_at)"
    return list(run_query(open_store(config.out), sql).rows)


def test_a_run_that_was_killed_goes_on_with_its_bundle_and_the_next_one_takes_the_new_one(config, registry, bundles):
    first, second = registry.resolve("production"), registry.resolve("candidate")
    began = _planned(config)
    assert (began.header.model_version, began.bundle) == (first, registry.bundle_uri(first))
    _label(config, began, shards=2)
    promote_bundle(registry.uri, second, "production", ME)
    preview = preview_run(to_request(config))
    assert isinstance(preview, LabelingPlan)
    assert (preview.resumed, preview.header.run_id) == (True, began.header.run_id)
    went_on = _planned(config)
    assert (went_on.resumed, went_on.header, went_on.bundle) == (True, began.header, began.bundle)
    _label(config, went_on)
    assert _versions(config) == [(began.header.run_id, first, VIDEOS + 1)]
    after = _planned(config)
    assert (after.resumed, after.header.model_version, after.header.videos) == (False, second, VIDEOS + 1)
    _label(config, after)
    assert _versions(config) == [(began.header.run_id, first, VIDEOS + 1), (after.header.run_id, second, VIDEOS + 1)]
    assert isinstance(open_run(to_request(config)), NothingToDo)


def test_a_run_that_goes_on_by_its_name_keeps_its_bundle_too(config, registry):
    named = config.model_copy(update={"run_id": "tonight"})
    began = _planned(named)
    promote_bundle(registry.uri, registry.resolve("candidate"), "production", ME)
    assert _planned(named).header == began.header
    _label(named, began)
    finished = open_run(to_request(named))
    assert isinstance(finished, NothingToDo)
    assert finished.finished_run_id == "tonight"
    other = load_config(None, [], {**named.model_dump(exclude_none=True), "models.bundle": f"{registry.uri}@candidate"})
    with pytest.raises(ConfigError, match="other models or settings"):
        open_run(to_request(other))


def test_the_run_records_what_was_asked_and_what_it_meant(config, registry):
    plan = _planned(config)
    told = tomllib.loads(open_store(config.out).read(config_name(plan.header.run_id)).decode())
    assert told["models"]["bundle"] == plan.header.bundle_asked == f"{registry.uri}@production"
    assert plan.header.bundle_uri == registry.bundle_uri(plan.header.model_version)
    assert labeling_spec(config, plan, NO_CLUSTER).models.bundle == plan.header.bundle_uri


def test_other_settings_are_another_run_with_what_the_alias_means_now(config, registry):
    began = _planned(config)
    promote_bundle(registry.uri, registry.resolve("candidate"), "production", ME)
    denser = load_config(None, ["sampling.stride_seconds=0.5"], config.model_dump(exclude_none=True))
    other = _planned(denser)
    assert (other.resumed, other.header.model_version) == (False, registry.resolve("production"))
    roll_back(registry.uri, "production", ME)
    assert _planned(config).header == began.header


def test_a_retry_takes_the_bundle_that_the_videos_failed_under(config, registry):
    plan = _planned(config)
    _label(config, plan)
    promote_bundle(registry.uri, registry.resolve("candidate"), "production", ME)
    store = open_store(config.out)
    retry = _retry_config(store, _find_finished(store, None), [], None, None, None, None, None)
    again = _planned(retry)
    assert (again.header.model_version, again.header.videos) == (plan.header.model_version, 1)
    asked = _retry_config(store, _find_finished(store, None), [], f"{registry.uri}@production", None, None, None, None)
    assert asked.models.bundle == f"{registry.uri}@production"


def test_a_run_whose_bundle_is_gone_stays_unfinished_and_its_videos_are_labeled_anew(config, registry, caplog):
    began = _planned(config)
    promote_bundle(registry.uri, registry.resolve("candidate"), "production", ME)
    (Path(str(began.bundle)) / "bundle.json").unlink()
    anew = _planned(config)
    assert (anew.resumed, anew.header.model_version) == (False, registry.resolve("production"))
    assert f"run {began.header.run_id} stays unfinished: its bundle {began.bundle} is gone" in caplog.text


def test_an_alias_whose_bundle_was_deleted_is_refused_before_any_work(config, registry):
    version = registry.resolve("production")
    (Path(registry.bundle_uri(version)) / "bundle.json").unlink()
    with pytest.raises(RegistryError, match=f"no bundle {version} in this registry"):
        open_run(to_request(config))
    assert not Path(config.out).exists()
