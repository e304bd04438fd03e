"""The command on a cluster that speaks TLS, as docs/scale-out.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from dask_processes import dask_processes
from distributed import Client
from tls_certificates import DEPLOY, dask_configured_by, make_certificates, settings_of

from tasks.generate_corpus import generate_corpus

VIDEOS = 4


@pytest.mark.matrix  # what it is made of is tried every day: tests/integration/test_scale_out.py
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_goes_through_a_scheduler_that_speaks_tls_to_two_workers(
    cdlabel: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    generate_corpus(str(corpus), videos=VIDEOS, seed=5, distractors=0.5, on_progress=lambda _: None)
    certificates = settings_of(make_certificates(tmp_path / "certificates") / "dask-tls.env")
    with dask_processes(protocol="tls", environment={**settings_of(DEPLOY / "dask.env"), **certificates}) as cluster:
        cluster.add_worker()
        with dask_configured_by(certificates), Client(cluster.address, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        command = ("label", corpus / "videos", "--out", out, "--json", "--set", "sharding.videos_per_shard=1")
        finished = cdlabel(*command, "--scheduler", cluster.address, **certificates)
    assert json.loads(finished.stdout)["videos_labeled"] == VIDEOS
    assert "each of 2 workers" in finished.stderr
