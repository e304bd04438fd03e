"""The flow under Prefect's own test server: what it returns, and what its page shows."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broken_networks import BRIGHT
from typer.testing import CliRunner

from cdmodel.policies import DenseTeacher
from cdmodel.testing import encode_flat_video, encode_numbered_clips, write_tiny_bundle
from flows.cli import app
from flows.config import load_config
from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.views import run_query
from tasks.generate_corpus import generate_corpus
from tasks.run_request import NothingToDo
from tasks.verify_output import verify_output

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Log

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    # Imported here and below, for every process of pytest imports this file, and Prefect's server takes seconds to load.
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow") / "kinetic"
    generate_corpus(str(folder), videos=5, seed=3, distractors=0.5, on_progress=lambda _: None)
    (folder / "videos" / "broken.mp4").write_bytes(b"not a video")
    return folder / "videos"


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_labels_shows_itself_on_its_page_and_a_mended_video_is_labeled_by_retry(
    corpus: Path, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    from flows.label import label_corpus

    out = tmp_path / "out"
    planned = CliRunner().invoke(app, ["plan", str(corpus), "--out", str(out), "--sample=9", "--workers=1", "--json"])
    assert planned.exit_code == 0, planned.output
    assert not out.exists()
    settings = {"source": str(corpus), "out": str(out), "cluster.workers": 1, "sharding.videos_per_shard": 3}
    watch = {"audit.share": 1.0, "alarms.max_failed_share": 0.1}
    record = label_corpus(load_config(None, [], {**settings, **watch}))
    assert isinstance(record, RunRecord)
    assert (record.videos_planned, record.videos_failed) == (6, 1)
    assert (record.audit_videos, record.alarms) == (5, "failed_share")
    assert _events("cdlabel.alarm.failed_share") == [f"cdlabel.run.{record.run_id}"]
    estimate = json.loads(planned.stdout)["estimate"]
    assert (estimate["sampled_videos"], estimate["sampled_failures"]) == (6, 1)
    for flops in ("student_flops", "teacher_flops"):
        # All videos were sampled: there is nothing to be unsure of.
        assert list(estimate[flops].values()) == pytest.approx([getattr(record, flops)] * 3)
    rows = run_query(open_store(str(out)), "select count(*), count(distinct video_id) from predictions").rows
    assert rows == ((6, 6),)
    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
        logs = _wait_for_logs(client, "video failed")
    assert record.run_id in str(artifacts["savings-receipt"].data)
    assert "broken.mp4" in str(artifacts["failed-videos"].data)
    assert float(artifacts["labeling"].data) == 100.0
    assert any("video failed" in log.message and "kind=unreadable" in log.message for log in logs)
    again = label_corpus(load_config(None, [], settings))
    assert isinstance(again, NothingToDo)
    assert again.videos_skipped == 6

    mended = corpus / "broken.mp4"
    shutil.copy(next(path for path in corpus.iterdir() if path != mended), mended)
    retried = CliRunner().invoke(app, ["retry", str(out), "--reason", "unreadable", "--strict", "--json"])
    assert retried.exit_code == 0, retried.output
    run = json.loads(retried.stdout)
    assert (run["videos_planned"], run["videos_labeled"]) == (1, 1)
    rows = run_query(open_store(str(out)), "select status, run_id from latest where uri.ends_with('broken.mp4')").rows
    assert rows == (("labeled", run["run_id"]),)
    assert "nothing to retry" in CliRunner().invoke(app, ["retry", str(out)]).stderr


def _events(name: str) -> list[str]:
    """Return the resources of the events of a name, once the server has written one down."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter

    wanted = EventFilter(event=EventNameFilter(name=[name]))
    for _ in range(300):
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")})
        found = [event["resource"]["prefect.resource.id"] for event in answer.json()["events"]]
        if found:
            return found
        time.sleep(0.1)
    return []


def _wait_for_logs(client: SyncPrefectClient, text: str) -> list[Log]:
    """Prefect sends logs in batches, every two seconds."""
    deadline = time.monotonic() + 30
    while True:
        logs = client.read_logs()
        if any(text in log.message for log in logs) or time.monotonic() > deadline:
            return logs
        time.sleep(0.2)


@pytest.mark.usefixtures("prefect_server")
def test_a_run_closes_the_flow_runs_that_dead_processes_left_running_and_no_others() -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.prefect_runs import PROCESS, claim_flow_run, process_identity

    label = flow(claim_flow_run, name="claims")
    alive = process_identity()
    dead = alive.rpartition(" ")[0] + " 0"  # the same process id, started at another time
    elsewhere = "another-host " + dead.partition(" ")[2]
    left_running = {
        "dead": ("out:/a", "run:r1", PROCESS + dead),
        "alive": ("out:/a", "run:r1", PROCESS + alive),
        "on another host": ("out:/a", "run:r1", PROCESS + elsewhere),
        "of another run": ("out:/a", "run:r2", PROCESS + dead),
        "of another place": ("out:/b", "run:r1", PROCESS + dead),
        "not ours": ("out:/a", "run:r1"),
    }
    with get_client(sync_client=True) as client:
        ids = {
            name: client.create_flow_run(label, tags=tags, state=Running()).id for name, tags in left_running.items()
        }
        label("/a", "r1")
        states = {name: client.read_flow_run(flow_run).state for name, flow_run in ids.items()}
    assert {name for name, state in states.items() if state is not None and not state.is_running()} == {"dead"}
    assert states["dead"] is not None
    assert (states["dead"].is_crashed(), states["dead"].message) == (
        True,
        "Its process was killed; a later run went on with the work",
    )


@pytest.mark.usefixtures("prefect_server")
def test_serving_closes_the_runs_of_dead_processes_and_of_dead_servers_and_leaves_the_others() -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Pending, Running

    from flows.prefect_runs import PROCESS, SERVED, close_dead_runs, process_identity

    alive = process_identity()
    dead = alive.rpartition(" ")[0] + " 0"
    states = {
        "dead": Running(),
        "alive": Running(),
        "not begun when its server died": Pending(),
        "not begun yet": Pending(),
    }
    tags = {
        "dead": (PROCESS + dead, SERVED + alive),
        "alive": (PROCESS + alive,),
        "not begun when its server died": (SERVED + dead,),
        "not begun yet": (SERVED + alive,),
    }
    served = flow(lambda: None, name="served")
    with get_client(sync_client=True) as client:
        for name, state in states.items():
            client.create_flow_run(served, name=name, tags=["out:/served", *tags[name]], state=state)
        runs = close_dead_runs(client, "/served")
    assert {run.name for run in runs.closed} == {"dead", "not begun when its server died"}
    assert {run.name for run in runs.alive} == {"alive", "not begun yet"}


@pytest.mark.usefixtures("prefect_server")
def test_videos_that_kill_workers_are_named_and_the_others_of_their_shard_are_labeled(tmp_path: Path) -> None:
    """Two of them in one shard: more deaths than the scheduler lets a shard have."""
    from flows.label import label_corpus

    bundle, videos, out = tmp_path / "bundle", tmp_path / "videos", tmp_path / "out"
    write_tiny_bundle(bundle, teacher_builder="broken_networks:build_deadly", policy=DenseTeacher())
    videos.mkdir()
    for name in ("a.mkv", "b.mkv", "c.mkv", "d.mkv"):
        (videos / name).write_bytes(encode_numbered_clips(2))
    for name in ("deadly-1.mkv", "deadly-2.mkv"):
        (videos / name).write_bytes(encode_flat_video([BRIGHT] * 16, fps=8, keyframe_interval=8))
    settings = {
        "source": str(videos),
        "out": str(out),
        "cluster.workers": 1,
        "decode.isolated": False,
        "models.bundle": str(bundle),
        "models.allowed_builders": ("broken_networks",),
    }
    record = label_corpus(load_config(None, [], settings))
    assert isinstance(record, RunRecord)
    assert (record.videos_labeled, record.videos_failed) == (4, 2)
    failures = run_query(
        open_store(str(out)), "select uri.regexp_extract('[^/]+$') as name, error_kind from failures order by name"
    )
    assert failures.rows == (("deadly-1.mkv", "worker_killed"), ("deadly-2.mkv", "worker_killed"))
    assert record.retry_cost is not None
    assert record.retry_cost > 0
    assert verify_output(str(out)) == ()
