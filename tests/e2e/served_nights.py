"""A served schedule as a process, the Prefect server it is known to, and an analyst who reads all the time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from flows.embedded_prefect import QUIET_CONSOLE
from storage.filesystem import open_store
from storage.views import run_query

PATIENCE_SECONDS = 200
SECONDS_BETWEEN_READS = 0.4
BUSY = 503
"""What the server answers while its database is locked; Prefect's own client asks again, too."""
Found = TypeVar("Found")


def wait_for(what: str, look: Callable[[], Found | None], *, every: float = 0.2) -> Found:
    """Return what is looked for as soon as it is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(every)
    return found


class Served:
    """``cdlabel serve`` as a process group of its own, with the runs that it starts."""

    def __init__(self, config: Path, environment: dict[str, str]) -> None:
        self._log = config.with_suffix(".log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--config", str(config)],
            # Looks for runs that are due more often than every ten seconds.
            env={**environment, "PREFECT_RUNNER_POLL_FREQUENCY": "1", QUIET_CONSOLE: "INFO"},
            start_new_session=True,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Served:
        """Wait until it serves."""
        wait_for("the schedule to be served", self._is_serving)
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended yet."""
        if self.process.poll() is None:
            self.kill()
        self._log.close()

    def said(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8")

    def kill(self) -> None:
        """End it with all that it has started, as a power cut does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self, number: signal.Signals, *, group: bool = False) -> int:
        """Tell it to end, and return its exit code; a terminal tells the whole group."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.process.wait(60)

    def _is_serving(self) -> bool | None:
        assert self.process.poll() is None, self.said()
        return True if "next runs:" in self.said() else None


class Prefect:
    """The server's API, by plain requests."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self._url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != BUSY:
                    raise
                time.sleep(1)

    def start_run(self, deployment: str, **body: Any) -> str:
        deployment_id = self.ask(f"deployments/name/{deployment}")["id"]
        flow_run: str = self.ask(f"deployments/{deployment_id}/create_flow_run", body)["id"]
        return flow_run

    def scheduled(self, deployment: str) -> list[dict[str, Any]]:
        """Return the runs that the server has planned by the deployment's cron."""
        wanted = {
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "deployments": {"name": {"any_": [deployment]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", wanted)
        return [run for run in found if run["auto_scheduled"]]

    def runs_tagged(self, tag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": [tag]}}})
        return found

    def end_of(self, flow_run: str) -> tuple[str, str]:
        """Wait until a run has ended, and return how, and the message."""

        def look() -> tuple[str, str] | None:
            state = self.ask(f"flow_runs/{flow_run}")["state"]
            return (state["type"], state["message"]) if state["type"] in ENDED else None

        return wait_for(f"the end of {flow_run}", look)

    def add_webhook(self, name: str, url: str) -> None:
        kind = self.ask("block_types/slug/webhook")["id"]
        schemas = {"block_schemas": {"operator": "and_", "block_type_id": {"any_": [kind]}}}
        schema = self.ask("block_schemas/filter", schemas)[0]["id"]
        document = {"name": name, "data": {"method": "POST", "url": url, "headers": {}}}
        self.ask("block_documents/", {**document, "block_schema_id": schema, "block_type_id": kind})


ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@contextmanager
def dask_cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address of a scheduler and one worker, in one process that all nights share."""
    script = (
        "import sys; from distributed import LocalCluster\n"
        "with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address='127.0.0.1:0',"
        " protocol='tcp', host='127.0.0.1') as cluster:\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        try:
            yield cluster.stdout.readline().strip()
        finally:
            cluster.communicate(timeout=60)


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """A URL, and the bodies of all that was sent there."""
    bodies: list[str] = []

    class Listen(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listen) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", bodies
        finally:
            server.shutdown()
            thread.join()


CONSISTENT = """
select (select count(*) from predictions) as rows,
  (select count(*) from (select 1 from predictions group by video_id, fingerprint having count(*) > 1)) as twice,
  (select count(*) from (select run_id, count(*) as n from predictions group by run_id) left join runs using (run_id)
    where n is distinct from videos_planned) as partial_runs
"""


class Analyst:
    """Reads the tables over and over, and remembers how many rows there were and what was wrong."""

    def __init__(self, out: Path) -> None:
        self.rows: list[int] = []
        self.wrong: list[str] = []
        self._store = open_store(str(out))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Analyst:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_READS):
            try:
                [(rows, twice, partial)] = run_query(self._store, CONSISTENT).rows
            except Exception as error:  # noqa: BLE001 - an analyst's query never fails
                self.wrong.append(repr(error))
                continue
            if twice or partial or (self.rows and rows < self.rows[-1]):
                self.wrong.append(f"{rows} rows after {self.rows[-1:]}, {twice} twice, {partial} partial runs")
            self.rows.append(rows)
