"""Where a run's rows come from: its inputs, outputs, versions and code, as one JSON document in the table of runs.

The terms are those of OpenLineage (inputs, outputs, facets are plain fields here); nothing is sent anywhere. Everything
that another version of the software, of the models or of the videos could change is named, so that two runs can be
compared in SQL.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from storage.publish import PublishedRun
from storage.run_layout import PREDICTIONS
from storage.run_store import RunHeader

PACKAGES = ("cdlabel", "torch", "av", "pyarrow", "dask", "distributed", "prefect")
GIT_SECONDS = 10


def lineage_json(
    header: RunHeader,
    published: PublishedRun,
    shard_ids: Iterable[str],
    *,
    out: str,
    versions: dict[str, str | None],
    commit: str | None,
) -> str:
    """Return the document. ``out`` is OUT's absolute place.

    ``plan_sha256`` is the hash of the ids of the run's shards, ascending, one per line; a shard's id in turn covers the
    ids, versions and URIs of its videos and what was done to them. Two runs of one plan, and no others, have the same.
    """
    facts: dict[str, Any] = {
        "job": {"flow": "label", "run_id": header.run_id, "fingerprint": header.fingerprint},
        "inputs": {
            "source": header.source,
            "corpus": header.corpus,
            "videos": header.videos,
            "bytes": header.bytes,
            "plan_sha256": hashlib.sha256("\n".join(sorted(shard_ids)).encode()).hexdigest(),
            "bundle": header.bundle_uri,
            "model_version": header.model_version,
        },
        "outputs": {
            "table": f"{out.rstrip('/')}/{PREDICTIONS}",
            "rows": published.rows,
            "bytes": sum(file.bytes for file in published.files),
            "files": [{"name": file.name, "rows": file.rows, "sha256": file.sha256} for file in published.files],
        },
        "versions": versions,
        "code": {"commit": commit},
    }
    return json.dumps(facts, sort_keys=True)


@cache
def installed_versions() -> dict[str, str | None]:
    """Return the versions that decide what a run does, of the process that publishes; None is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def code_commit() -> str | None:
    """Return the commit this code is of, with ``-dirty`` if files differ from it; None where that is not known.

    Known of an installation from a Git URL, and of a checkout if there is Git.
    """
    root = Path(__file__).parent.parent
    if (root / ".git").exists():
        return _describe_checkout(root)
    try:
        return _installed_commit(distribution("cdlabel"))
    except PackageNotFoundError:
        return None


def _describe_checkout(root: Path) -> str | None:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _installed_commit(installed: Distribution) -> str | None:
    """Return what pip wrote down, see PEP 610."""
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None
