"""A whole run through storage while requests go wrong: either nothing is noticed, or running again completes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aimed_proxy import PASSING, AimedProxy, Fault, Kind, proxy_before
from botocore.retries.standard import ExponentialBackoff
from run_builders import NOON, context, header, outcomes_of, publish_and_finish, shards_of, video
from s3_endpoint import IS_REAL, s3_client
from spoiled_line import spoiled_line

from cdmodel.errors import CommitStateUnknown, LabelingError, OutputError, StorageUnavailable
from storage import drivers, filesystem
from storage.filesystem import Store, open_store
from storage.output import check_output, check_writable
from storage.run_store import commit_shard, committed_shards, create_plan
from storage.views import QueryResult, run_query
from tasks.verify_output import verify_output

SHARDS = shards_of([video("a"), video("b fails")], [video("c")])
PLANNED = (("a", "labeled"), ("b fails", "failed"), ("c", "labeled"))
RUN_KINDS: tuple[Kind, ...] = ("list", "head", "get", "get range", "put new", "delete")
"""All that a run asks of a store that honours conditional writes."""
SOON_SECONDS = 30.0 if IS_REAL else 10.0
ANSWER_LOST: tuple[Fault, ...] = ("reset after", "cut", "stall")
"""Faults of a request that the server has carried out."""
Objects = dict[str, str]


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AimedProxy]:
    """A proxy before the server, and a client that waits for nothing long."""
    monkeypatch.setattr(drivers, "READ_TIMEOUT_SECONDS", 0.25)
    monkeypatch.setattr(filesystem, "BUSY_SECONDS", 0.001)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    with proxy_before(s3_server) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint)
        yield started


@pytest.fixture
def store(proxy: AimedProxy, bucket: str) -> Store:
    return open_store(f"{bucket}/out")


@pytest.fixture
def standing(s3_environment: dict[str, str], bucket: str) -> Iterator[Callable[[], Objects]]:
    """Ask the server itself for the objects and their etags."""
    client = s3_client(s3_environment)

    def ask() -> Objects:
        listed = client.list_objects_v2(Bucket=bucket.removeprefix("s3://")).get("Contents", ())
        return {item["Key"]: item["ETag"] for item in listed if "/.staging/" not in item["Key"]}

    yield ask
    client.close()


@pytest.mark.parametrize(("fault", "skip"), [(fault, 5 if fault == "reset after" else 0) for fault in PASSING])
def test_a_fault_that_passes_at_every_kind_of_request_is_not_noticed(
    fault: Fault, skip: int, store: Store, proxy: AimedProxy
):
    proxy.aim(fault, at=RUN_KINDS, skip=skip, limit=1)
    _run(store, "r1")
    spoiled = {kind for kind, _ in proxy.spoiled}
    assert spoiled == set(RUN_KINDS) if skip == 0 else spoiled >= {"list", "head", "get range", "put new"}
    assert set(proxy.seen) == set(RUN_KINDS), "the kinds above are all there are"


@pytest.mark.parametrize("kind", RUN_KINDS)
def test_faults_that_last_are_errors_soon_and_running_again_completes(
    kind: Kind, store: Store, proxy: AimedProxy, standing: Callable[[], Objects]
):
    before: Objects = {}
    # Every fault where an object is created, and the three that differ most elsewhere.
    faults = PASSING if kind == "put new" else ("503", "reset after", "stall")
    for number, fault in enumerate(faults):
        # Each time a little later in the run.
        proxy.aim(fault, at=(kind,), skip=0 if kind == "delete" else number if kind != "put new" else 2 * number)
        error = _error_of_run(store, "r1")
        if kind == "put new" and fault in ANSWER_LOST:
            assert error is None, "what the server holds is looked at, and is ours"
        else:
            assert error is not None
            assert "\n" not in str(error)
        proxy.calm()
        before = _unchanged(before, standing())
    _run(store, "r1")
    _unchanged(before, standing())


def test_a_storm_of_faults_delays_runs_and_spoils_nothing(
    store: Store, proxy: AimedProxy, standing: Callable[[], Objects]
):
    runs, before = ("r1", "r2"), {}
    proxy.storm(0.05, 11, *PASSING)
    attempts = 0
    for run_id in runs:
        while attempts < 60:
            attempts += 1
            error = _error_of_run(store, run_id)
            before = _unchanged(before, standing())
            if error is None:
                break
            assert "\n" not in str(error)
    assert proxy.seen.total() > 150
    assert proxy.spoiled.total() > 10
    proxy.calm()
    for run_id in runs:
        _run(store, run_id)
    _unchanged(before, standing())
    assert run_query(
        store, "select run_id, count(*), count(distinct video_id) from predictions group by 1 order by 1"
    ) == (
        QueryResult(
            columns=("run_id", "count_star()", "count(DISTINCT video_id)"), rows=tuple((run, 3, 3) for run in runs)
        )
    )


@pytest.mark.skipif(not IS_REAL, reason="against a real server only: make test-s3")
@pytest.mark.parametrize("mode", ["503", "reset", "cut"])
def test_behind_a_line_that_spoils_every_third_request_a_run_completes(
    mode: str, fault_proxy: Path, bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
):
    with spoiled_line(fault_proxy, s3_server, mode, every=3) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = open_store(f"{bucket}/out")
        for _ in range(10):
            if _error_of_run(store, "r1") is None:
                break
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    _run(open_store(f"{bucket}/out"), "r1")


def test_a_fault_while_sql_is_answered_is_the_stores_and_not_the_querys(store: Store, proxy: AimedProxy):
    _run(store, "r1")
    refused = 0
    # Past what is read before DuckDB opens the files: their views, the views upon those, the query.
    moments: tuple[tuple[Fault, Kind, int, int | None], ...] = (
        ("503", "head", 9, None),
        ("503", "head", 23, None),
        ("cut", "get range", 1, 2),
    )
    for fault, kind, skip, limit in moments:
        proxy.aim(fault, at=(kind,), skip=skip, limit=limit)
        with pytest.raises(StorageUnavailable) as caught:
            run_query(store, "select count(*), max(label) from predictions")
        assert "Traceback" not in str(caught.value)
        refused += caught.value.subject == store.root
    assert refused >= 2, "inside DuckDB"


def _run(store: Store, run_id: str, *, verify: bool = True) -> None:
    """Do what ``cdlabel label``, ``verify`` and ``query`` do with a store, going on where an earlier attempt stopped."""
    check_output(store)
    check_writable(store)
    # Every run but the first labels the same videos again, on purpose.
    planned = replace(header(run_id, SHARDS), relabel=run_id != "r1")
    create_plan(store, planned, SHARDS, "# settings\n")
    for shard in SHARDS:
        if shard.shard_id not in committed_shards(store, run_id):
            commit_shard(store, outcomes_of(shard), context(run_id, shard.shard_id), NOON)
    publish_and_finish(store, run_id)
    # It makes as many requests as all the rest, so it is left out where only the error of an attempt counts.
    problems = verify_output(store.root) if verify else ()
    if problems:
        raise StorageUnavailable(store.root, problems[0].detail)
    found = run_query(store, f"select video_id, status from predictions where run_id = '{run_id}' order by video_id")
    assert found.rows == PLANNED


def _error_of_run(store: Store, run_id: str) -> LabelingError | None:
    started = time.monotonic()
    try:
        _run(store, run_id, verify=False)
    except (StorageUnavailable, CommitStateUnknown, OutputError) as error:
        return error
    finally:
        assert time.monotonic() - started < SOON_SECONDS
    return None


def _unchanged(before: Objects, now: Objects) -> Objects:
    assert {name: now.get(name) for name in before} == before
    return now
