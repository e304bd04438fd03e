"""More than one machine, as docs/scale-out.md says: certificates, workers elsewhere, and workers that come for work only."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path

import dask
import pyarrow.parquet as pq
import pytest
import yaml
from dask_processes import DaskProcesses, dask_processes, free_port
from distributed import LocalCluster
from tls_certificates import DEPLOY, dask_configured_by, make_certificates, settings_of

from cdmodel.bundle import model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import ClusterError
from cdmodel.types import Shard, VideoRef
from flows.dispatch import ClusterSettings, Completed, check_scheduler, open_cluster, run_on_workers
from storage.bundles import local_bundle
from tasks.generate_corpus import generate_corpus
from tasks.label_shard import LabelingSpec, label_shard
from tasks.worker_models import WorkerModels

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

VIDEOS = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale-out") / "corpus"
    generate_corpus(str(folder), videos=VIDEOS, seed=5, distractors=0.5, on_progress=lambda _: None)
    return folder / "videos"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(scope="module")
def encrypted(certificates: Path) -> Iterator[DaskProcesses]:
    """A scheduler and a worker, by ``dask scheduler`` and ``dask worker``, that speak TLS only."""
    settings = {**settings_of(DEPLOY / "dask.env"), **settings_of(certificates / "dask-tls.env")}
    with dask_processes(protocol="tls", environment=settings) as processes:
        yield processes


def test_what_is_wrong_with_certificates_is_said_in_a_line(
    encrypted: DaskProcesses, certificates: Path, tmp_path: Path
) -> None:
    ours = settings_of(certificates / "dask-tls.env")
    others = settings_of(make_certificates(tmp_path / "others") / "dask-tls.env")
    client_key = "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
    for configured, address, said in (
        ({}, encrypted.address, "no certificates for a client"),
        ({**ours, client_key: str(tmp_path / "none.key")}, encrypted.address, "our certificates cannot be read"),
        (others, encrypted.address, "not of our authority"),
        (ours, encrypted.address.replace("tls://", "tcp://"), "encryption required"),
        ({}, encrypted.address.replace("tls://", "tcp://"), "whether it is tcp:// or tls://"),
    ):
        with dask_configured_by(configured), pytest.raises(ClusterError, match=said) as raised:
            check_scheduler(ClusterSettings(scheduler=address))
        assert raised.value.subject == address


def test_a_run_on_this_machine_alone_can_be_encrypted_too(certificates: Path) -> None:
    with (
        dask_configured_by(settings_of(certificates / "dask-tls.env")),
        open_cluster(ClusterSettings(workers=1), gpus=0) as cluster,
    ):
        assert cluster.address.startswith("tls://127.0.0.1:")
        assert [one.item for one in run_on_workers(cluster, abs, iter([("one", -1)]))] == [-1]


def test_workers_come_for_work_only_and_go_when_there_is_none() -> None:
    """And the scheduler tells how many it wants where the Kubernetes operator asks for that."""
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes_of_kubernetes()}),
        LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=":0",
        ) as adaptive,
    ):
        wanted = f"http://127.0.0.1:{adaptive.scheduler.http_server.port}/api/v1/adaptive_target"
        assert wanted_workers(wanted) == 0
        adaptive.adapt(minimum=0, maximum=2, interval="100 ms", wait_count=2, target_duration="100 ms")
        with open_cluster(ClusterSettings(scheduler=adaptive.scheduler_address), gpus=0) as cluster:
            most = 0
            for outcome in run_on_workers(cluster, sleep_a_moment, ((f"slow-{n}", n) for n in range(20))):
                assert isinstance(outcome, Completed)
                most = max(most, len(adaptive.scheduler.workers))
            assert most == 2
        while adaptive.scheduler.workers:  # ends by pytest's own limit
            sleep_a_moment(0)
        assert wanted_workers(wanted) == 0


def routes_of_kubernetes() -> list[str]:
    settings = yaml.safe_load_all((DEPLOY / "kubernetes" / "settings.yaml").read_text())
    [data] = [one["data"] for one in settings if one["kind"] == "ConfigMap"]
    routes: list[str] = ast.literal_eval(data["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"])
    return routes


def wanted_workers(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        workers: int = json.load(answer)["workers"]
    return workers


def sleep_a_moment(_: int) -> None:
    import time

    time.sleep(0.3)


def test_a_worker_that_never_comes_is_waited_for_as_long_as_the_settings_allow() -> None:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as empty:
        settings = ClusterSettings(scheduler=empty.scheduler_address, worker_wait_seconds=0.5)
        check_scheduler(settings)
        with pytest.raises(ClusterError, match=r"got no worker within 0\.5 s"), open_cluster(settings, gpus=0):
            pass


SSH = """#!/bin/sh
# Stands for ssh: the host is this machine.
while [ "$1" != -- ]; do shift; done
echo "$2" >> "$SSH_LOG"
exec sh -c "$3"
"""


def test_the_ssh_script_starts_workers_on_the_hosts_and_ends_them(certificates: Path, tmp_path: Path) -> None:
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    path = os.pathsep.join([str(ssh.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    address = f"tls://127.0.0.1:{free_port()}"
    command = ["bash", str(DEPLOY / "ssh" / "cluster.sh"), "-a", address, "-e", str(certificates / "dask-tls.env")]
    with subprocess.Popen(
        [*command, "host-a", "host-b"],
        env={**os.environ, "PATH": path, "SSH_LOG": str(tmp_path / "hosts")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as script:
        try:
            with dask_configured_by(settings_of(certificates / "dask-tls.env")):
                for _ in range(20):  # until the scheduler answers
                    try:
                        check_scheduler(ClusterSettings(scheduler=address))
                        break
                    except ClusterError:
                        sleep_a_moment(0)
                with open_cluster(ClusterSettings(scheduler=address), gpus=0) as cluster:
                    cluster.client.wait_for_workers(2, timeout=60)
            script.terminate()
            assert script.wait(60) == 143
            assert not processes_of_session(script.pid)
        finally:
            for pid in processes_of_session(script.pid):
                os.kill(pid, signal.SIGKILL)
    assert sorted((tmp_path / "hosts").read_text().split()) == ["host-a", "host-b"]


def processes_of_session(session: int) -> list[int]:
    import psutil

    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces, at 10.231.77.1 and 10.231.77.2, with a cable between them and to nowhere else."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program ip")
    names = (f"cdlabel-{os.getpid()}-a", f"cdlabel-{os.getpid()}-b")
    with ExitStack() as undo:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
                pytest.skip("this system lets nobody make network namespaces")
            undo.callback(run_ip, "netns", "del", name)
        run_ip("link", "add", "end-a", "netns", names[0], "type", "veth", "peer", "name", "end-b", "netns", names[1])
        for number, (name, end) in enumerate(zip(names, ("end-a", "end-b"), strict=True), start=1):
            run_ip("-n", name, "addr", "add", f"10.231.77.{number}/30", "dev", end)
            run_ip("-n", name, "link", "set", end, "up")
            run_ip("-n", name, "link", "set", "lo", "up")
        yield names


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def test_a_worker_in_another_network_labels_into_a_folder_that_both_see(
    two_hosts: tuple[str, str], corpus: Path, tmp_path: Path
) -> None:
    """Without Prefect, which would take most of the time and knows nothing of workers."""
    here, there = (["ip", "netns", "exec", name] for name in two_hosts)
    scheduler = "tcp://10.231.77.1:8786"
    arguments = (scheduler, str(corpus), str(tmp_path / "out"))
    command = f"import test_scale_out; test_scale_out.label_on_a_cluster{arguments}"
    with dask_processes(address=scheduler, scheduler_prefix=here, worker_prefix=there):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        finished = subprocess.run(
            [*here, sys.executable, "-c", command],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
    assert finished.returncode == 0, finished.stderr
    [worker] = json.loads(finished.stdout)
    assert worker.startswith("tcp://10.231.77.2:")
    shards = Path(arguments[2]).glob("runs/run/shards/*.parquet")
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    assert sorted(row["status"] for row in rows) == ["labeled"] * VIDEOS


def label_on_a_cluster(scheduler: str, corpus: str, out: str) -> None:
    """Label every video as a shard of its own, and print the workers' addresses."""
    manifest = read_manifest(local_bundle(None))
    spec = LabelingSpec(
        out=out,
        run_id="run",
        launch_id="launch",
        run_date=date(2026, 12, 1),
        corpus="corpus",
        fingerprint="f1",
        models=WorkerModels(bundle=None, model_version=model_version(manifest), allowed_builders=(), model_threads=1),
        sampling=manifest.sampling,
        cascade=CascadeSettings(policy=manifest.default_policy, aggregation=manifest.default_aggregation),
        limits=DecodeLimits(),
        prices=None,
    )
    videos = [
        VideoRef(video_id=path.name, uri=str(path), video_version="1", size_bytes=None)
        for path in sorted(Path(corpus).iterdir())
    ]
    shards = ((video.video_id, Shard(shard_id=video.video_id, videos=(video,))) for video in videos)
    with open_cluster(ClusterSettings(scheduler=scheduler), gpus=0) as cluster:
        outcomes = list(run_on_workers(cluster, partial(label_shard, spec=spec), shards))
        assert all(isinstance(outcome, Completed) for outcome in outcomes)
        sys.stdout.write(json.dumps(list(cluster.client.nthreads())))
