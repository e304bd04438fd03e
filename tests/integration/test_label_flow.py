"""The flow under Prefect's own test server: what it returns, and what its page shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.config import load_config
from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.views import run_query
from tasks.generate_corpus import generate_corpus
from tasks.plan_run import NothingToDo

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
def test_the_flow_labels_and_leaves_receipt_progress_and_failures_on_its_page(corpus: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    from flows.label import label_corpus

    out = tmp_path / "out"
    settings = {"source": str(corpus), "out": str(out), "cluster.workers": 1, "sharding.videos_per_shard": 3}
    record = label_corpus(load_config(None, [], settings))
    assert isinstance(record, RunRecord)
    assert (record.videos_planned, record.videos_failed) == (6, 1)
    rows = run_query(open_store(str(out)), "select count(*), count(distinct video_id) from predictions").rows
    assert rows == ((6, 6),)
    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert record.run_id in str(artifacts["savings-receipt"].data)
    assert "broken.mp4" in str(artifacts["failed-videos"].data)
    assert float(artifacts["labeling"].data) == 100.0
    again = label_corpus(load_config(None, [], settings))
    assert isinstance(again, NothingToDo)
    assert again.videos_skipped == 6
