"""A model registry in a bucket: the same promises as on a disk, by create-only writes alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from aimed_proxy import proxy_before
from botocore.retries.standard import ExponentialBackoff
from s3_endpoint import IS_REAL

import storage.filesystem
from cdmodel.bundle import model_version, read_manifest
from cdmodel.errors import RegistryConflict, RegistryError, StorageUnavailable
from cdmodel.testing import write_tiny_bundle
from storage.bundles import local_bundle, pin_bundle
from storage.registry import Registry, open_registry
from tasks.move_alias import Mover, promote_bundle, roll_back

THREADS = 50 if IS_REAL else 20
"""The server in Python answers one request after the other; fifty at once are tried on a disk every day."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in range(2):
        write_tiny_bundle(folder / str(seed), seed=seed)
    return folder / "0", folder / "1"


@pytest.fixture
def registry(bucket: str) -> Registry:
    return open_registry(f"{bucket}/models", create=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _version(folder: Path) -> str:
    return model_version(read_manifest(folder))


def test_a_bundle_is_promoted_used_by_its_alias_and_rolled_back(bucket: str, bundles: tuple[Path, Path]):
    # The registry is the bucket itself.
    first, second = map(_version, bundles)
    for folder in bundles:
        promote_bundle(bucket, str(folder), "production", Mover(moved_by="me"))
    assert pin_bundle(f"{bucket}@production") == f"{bucket}/bundles/{second}"
    assert _version(local_bundle(f"{bucket}@production")) == second
    back = roll_back(bucket, "production", Mover(moved_by="me", reason="worse"))
    assert (back.model_version, back.previous, back.number) == (first, second, 3)
    assert _version(local_bundle(f"{bucket}@production")) == first
    with pytest.raises(RegistryError, match="nothing to go back to"):
        roll_back(bucket, "production", Mover(moved_by="me"))
    promote_bundle(bucket, f"{bucket}@{second}", "candidate", Mover(moved_by="me"))
    assert {move.alias: move.model_version for move in open_registry(bucket).aliases()} == {
        "candidate": second,
        "production": first,
    }
    assert {bundle.model_version for bundle in open_registry(bucket).bundles()} == {first, second}


def test_an_add_that_broke_off_is_not_seen_and_completed_by_the_next(
    registry: Registry, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    put_whole = storage.filesystem.put_whole
    for allowed in range(3):
        done = 0

        def breaks_off(*args: object, allowed: int = allowed) -> None:
            nonlocal done
            if done == allowed:
                raise OSError("the network is gone")
            done += 1
            put_whole(*args)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(storage.filesystem, "put_whole", breaks_off)
            with pytest.raises(StorageUnavailable):
                registry.add(bundles[allowed % 2])
        assert registry.bundles() == ()
    for folder in bundles:
        uri = registry.add(folder).uri
        assert _version(local_bundle(uri)) == _version(folder)


def test_of_many_promotions_at_once_each_wins_one_number_and_the_history_has_all(
    registry: Registry, bundles: tuple[Path, Path]
):
    versions = [registry.add(folder).model_version for folder in bundles]
    start = Barrier(THREADS)

    def promote(index: int) -> int:
        start.wait()
        return promote_bundle(registry.uri, versions[index % 2], "production", Mover(moved_by=str(index))).number

    with ThreadPoolExecutor(THREADS) as pool:
        numbers = list(pool.map(promote, range(THREADS)))
    assert sorted(numbers) == list(range(1, THREADS + 1))
    history = registry.history("production")
    assert {move.moved_by: move.number for move in history} == {str(i): n for i, n in enumerate(numbers)}
    assert [move.previous for move in history] == [None, *(move.model_version for move in history[:-1])]


def test_of_many_moves_that_follow_the_same_one_exactly_one_wins(registry: Registry, bundles: tuple[Path, Path]):
    version = registry.add(bundles[0]).model_version
    start = Barrier(THREADS)
    move = partial(registry.move, "production", version, after=0, moved_by="me")

    def try_to_move(_: int) -> int | None:
        start.wait()
        try:
            return move().number
        except RegistryConflict:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(try_to_move, range(THREADS)))
    assert sorted(answers, key=str) == [1, *[None] * (THREADS - 1)]
    assert len(registry.history("production")) == 1


@pytest.mark.skipif(IS_REAL, reason="a server that checks signatures takes no request that was altered on its way")
def test_a_server_that_does_not_hold_to_conditions_moves_no_alias(
    s3_server: str, bucket: str, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    with proxy_before(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.aim("no condition", at=("put new",))
        with pytest.raises(RegistryError, match="does not honour create-only writes"):
            promote_bundle(f"{bucket}/models", str(bundles[0]), "production", Mover(moved_by="me"))
        registry = open_registry(f"{bucket}/models")
        assert registry.current("production") is None
        assert len(registry.bundles()) == 1, "a bundle may be kept there: whoever writes it writes the same bytes"


def test_a_bucket_that_is_not_there_is_said_so(bucket: str, bundles: tuple[Path, Path]):
    with pytest.raises(StorageUnavailable, match="does not exist"):
        open_registry(f"{bucket}-of-nobody/models")
    with pytest.raises(StorageUnavailable, match="does not exist"):
        promote_bundle(f"{bucket}-of-nobody", str(bundles[0]), "production", Mover(moved_by="me"))
