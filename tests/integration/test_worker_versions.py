"""Workers that have other code or other packages than the command: named, and never given work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_processes import DaskProcesses, dask_processes

from cdmodel.errors import ClusterError
from flows import dispatch
from flows.dispatch import ClusterSettings, Completed, open_cluster, run_on_workers
from flows.worker_versions import OUR_CODE

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).parents[2]
TELL_WORKER = ["sh", "-c", "sleep 0.05; echo $PPID"]


def with_other_torch(folder: Path) -> dict[str, str]:
    """Return the environment of a worker that finds another torch before ours."""
    facts = folder / "torch-0.0.1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def with_other_code(folder: Path) -> dict[str, str]:
    """Return the environment of a worker that has a line more than we."""
    for package in OUR_CODE:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "demo_bundle"))
    with (folder / "tasks" / "sharding.py").open("a") as module:
        module.write("\nMORE = 1\n")
    return {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


def completed(outcome: object) -> bytes:
    assert isinstance(outcome, Completed)
    result = outcome.result
    assert isinstance(result, bytes)
    return result


OTHERS = {
    "torch": (with_other_torch, r"torch 0\.0\.1 instead of "),
    "code": (with_other_code, "other files of cdlabel under the same version"),
}


@pytest.fixture
def cluster() -> Iterator[DaskProcesses]:
    with dask_processes() as processes:
        yield processes


@pytest.mark.parametrize("other", OTHERS)
def test_a_worker_with_something_else_is_refused_before_work_is_sent(
    other: str, cluster: DaskProcesses, tmp_path: Path
) -> None:
    environment, differs = OTHERS[other]
    cluster.add_worker(environment(tmp_path))
    cluster.workers[0].kill()
    with (
        pytest.raises(ClusterError, match=f"its worker tcp://.* has {differs}") as raised,
        open_cluster(ClusterSettings(scheduler=cluster.address), gpus=0),
    ):
        pass
    assert raised.value.subject == cluster.address


@pytest.mark.parametrize("other", OTHERS)
def test_one_that_joins_later_is_sent_away_and_named_and_the_run_goes_on(
    other: str, cluster: DaskProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, differs = OTHERS[other]
    said: list[str] = []
    # Not the line that waits for the first worker, which may be there already or not.
    monkeypatch.setattr(dispatch, "say", lambda line: said.append(line) if "sent away" in line else None)
    with open_cluster(ClusterSettings(scheduler=cluster.address), gpus=0) as connected:
        outcomes = run_on_workers(connected, subprocess.check_output, ((f"slow-{n}", TELL_WORKER) for n in range(1000)))
        next(outcomes)
        cluster.add_worker(environment(tmp_path))
        deadline = time.monotonic() + 60
        workers = {int(completed(next(outcomes)))}
        while not said and time.monotonic() < deadline:
            workers.add(int(completed(next(outcomes))))
        workers |= {int(completed(next(outcomes))) for _ in range(20)}
        outcomes.close()  # type: ignore[attr-defined]
    assert workers == {cluster.workers[0].pid}
    assert cluster.workers[1].wait(30) is not None
    assert re.search(f"worker tcp://.* was sent away, it has {differs}", said[0])
