"""A bucket that is deleted, closed or made read-only while shards are being committed: one error, and running again goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aimed_proxy import KINDS, AimedProxy, Fault, Kind, proxy_before
from run_builders import NOON, commit, context, outcomes_of, plan_run, publish_and_finish, shards_of, video
from s3_endpoint import remove_bucket, s3_client

from cdmodel.errors import CommitStateUnknown, OutputError, StorageUnavailable
from storage.filesystem import Store, open_store
from storage.output import check_output
from storage.run_store import commit_shard, committed_shards, list_runs
from storage.views import run_query
from tasks.verify_output import verify_output

SHARDS = shards_of([video("a"), video("b fails")], [video("c")])
WRITES: tuple[Kind, ...] = ("put new", "put", "delete")


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AimedProxy]:
    with proxy_before(s3_server) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint)
        yield started


@pytest.fixture
def store(proxy: AimedProxy, bucket: str) -> Store:
    """A run with one of its shards committed."""
    store = open_store(f"{bucket}/out")
    plan_run(store, "r1", SHARDS)
    commit(store, "r1", SHARDS[0])
    return store


@pytest.mark.parametrize(
    ("fault", "at", "kind", "words"),
    [
        ("no bucket", KINDS, StorageUnavailable, "its bucket does not exist"),
        ("403", WRITES, StorageUnavailable, "access denied"),
        # Whoever may not look cannot tell whether an earlier attempt of the same request has succeeded.
        ("403", KINDS, CommitStateUnknown, "access denied"),
        ("expired", KINDS, CommitStateUnknown, "access denied (injected ExpiredToken)"),
    ],
)
def test_what_comes_back_is_gone_on_with(
    fault: Fault, at: tuple[Kind, ...], kind: type[Exception], words: str, store: Store, proxy: AimedProxy
):
    before = {item.name: item.version for item in store.list()}
    proxy.aim(fault, at=at)
    with pytest.raises(kind) as caught:
        commit_shard(store, outcomes_of(SHARDS[1]), context("r1", SHARDS[1].shard_id), NOON)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    if at == KINDS:
        with pytest.raises(OutputError):
            check_output(store)
        for look in (lambda: list_runs(store), lambda: committed_shards(store, "r1"), lambda: store.exists("x")):
            with pytest.raises(StorageUnavailable):
                look()
    proxy.calm()
    assert committed_shards(store, "r1") == {SHARDS[0].shard_id}
    commit(store, "r1", SHARDS[1])
    publish_and_finish(store, "r1")
    assert verify_output(store.root) == ()
    assert run_query(store, "select count(*), count(distinct video_id) from predictions").rows == ((3, 3),)
    assert {item.name: item.version for item in store.list() if item.name in before} == before


def test_a_deleted_bucket_is_named_and_one_made_anew_is_an_empty_out(
    store: Store, bucket: str, s3_environment: dict[str, str]
):
    client = s3_client(s3_environment)
    name = bucket.removeprefix("s3://")
    remove_bucket(client, name)
    with pytest.raises(StorageUnavailable, match="its bucket does not exist"):
        commit(store, "r1", SHARDS[1])
    with pytest.raises(StorageUnavailable, match="its bucket does not exist"):
        committed_shards(store, "r1")
    client.create_bucket(Bucket=name)
    client.close()
    check_output(store)
    assert list_runs(store) == ()
