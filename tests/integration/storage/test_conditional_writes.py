"""What is promised where a server ignores the condition of a create-only write, or does not know it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from aimed_proxy import AimedProxy, proxy_before
from botocore.retries.standard import ExponentialBackoff
from run_builders import NOON, context, outcomes_of, plan_run, publish_and_finish, shards_of, video
from s3_endpoint import IS_REAL

from cdmodel.errors import OutputError, StorageUnavailable
from storage import filesystem
from storage.filesystem import Store, open_store, probe
from storage.output import check_writable
from storage.run_store import commit_shard, read_receipt
from storage.views import run_query
from tasks.check_environment import check_environment
from tasks.verify_output import verify_output

SHARDS = shards_of([video("a"), video("b fails")], [video("c")])
UNALTERED = pytest.mark.skipif(
    IS_REAL, reason="a server that checks signatures takes no request that was altered on its way"
)
DEAF = (pytest.param("no condition", marks=UNALTERED), "501")


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AimedProxy]:
    monkeypatch.setattr(filesystem, "BUSY_SECONDS", 0.001)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    with proxy_before(s3_server) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint)
        yield started


@pytest.fixture
def store(proxy: AimedProxy, bucket: str) -> Store:
    return open_store(f"{bucket}/out")


@pytest.fixture(params=DEAF)
def deaf_store(request: pytest.FixtureRequest, proxy: AimedProxy, store: Store) -> Store:
    """A store whose server does not hold a write to its condition."""
    proxy.aim(request.param, at=("put new",))
    return store


def _commit(store: Store, attempt: str, seconds: int) -> None:
    at = NOON + timedelta(seconds=seconds)
    for shard in SHARDS:
        commit_shard(store, outcomes_of(shard, at), context("r1", shard.shard_id, attempt_id=attempt), at)


def test_a_server_that_does_not_hold_to_conditions_is_found_out(deaf_store: Store):
    assert not probe(deaf_store)
    assert not check_writable(deaf_store)
    assert deaf_store.list() == ()


def test_the_doctor_says_so(store: Store, proxy: AimedProxy):
    proxy.aim("501", at=("put new",))
    (output,) = (check for check in check_environment(store.root, "no-such-bundle") if check.name == "output")
    assert output.ok
    assert output.detail == f"{store.root} can be written, create-only writes are NOT honoured"


def test_a_probe_that_fails_is_no_answer(store: Store, proxy: AimedProxy):
    proxy.aim("503", at=("put new",), skip=1)
    with pytest.raises(StorageUnavailable):
        probe(store)
    proxy.calm()
    assert probe(store)
    assert store.list() == ()


def test_where_the_condition_is_not_known_what_stands_is_looked_for(store: Store, proxy: AimedProxy):
    proxy.aim("501", at=("put new",))
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"


def test_a_conflict_with_another_write_is_tried_again(store: Store, proxy: AimedProxy):
    proxy.aim("409", at=("put new",), limit=2)
    assert store.create("a", b"first")
    assert proxy.seen["put new"] == 3
    proxy.aim("409", at=("put new",))
    with pytest.raises(StorageUnavailable, match="ConditionalRequestConflict"):
        store.create("b", b"first")


def test_two_attempts_after_one_another_leave_each_video_one_row(deaf_store: Store):
    plan_run(deaf_store, "r1", SHARDS)
    _commit(deaf_store, "first", 0)
    _commit(deaf_store, "second", 1)
    publish_and_finish(deaf_store, "r1")
    assert run_query(deaf_store, "select video_id, status from predictions order by video_id").rows == (
        ("a", "labeled"),
        ("b fails", "failed"),
        ("c", "labeled"),
    )
    assert verify_output(deaf_store.root) == ()


@UNALTERED
def test_a_late_attempt_replaces_whole_objects_at_most_and_never_what_is_published(store: Store, proxy: AimedProxy):
    proxy.aim("no condition", at=("put new",))
    plan_run(store, "r1", SHARDS)
    _commit(store, "first", 0)
    publish_and_finish(store, "r1")
    _commit(store, "zombie", 1)
    for shard in SHARDS:
        assert read_receipt(store, "r1", shard.shard_id).attempt_id == "zombie"
    assert verify_output(store.root) == ()
    assert run_query(store, "select distinct attempt_id from predictions").rows == (("first",),)
    # A second command that had not seen the run end publishes what it finds, file and marker alike.
    publish_and_finish(store, "r1")
    assert verify_output(store.root) == ()
    assert run_query(store, "select count(*), count(distinct video_id) from predictions").rows == ((3, 3),)


def test_a_bucket_that_can_only_be_read_is_refused_before_work(store: Store, proxy: AimedProxy):
    proxy.aim("403", at=("put new", "put", "delete"))
    with pytest.raises(OutputError, match="access denied"):
        check_writable(store)
