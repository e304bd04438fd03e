"""What the table of runs says of a run's inputs, outputs, versions and code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from run_builders import MODEL_VERSION, commit, plan_run, shards_of, video

from storage.filesystem import open_store
from storage.run_record import read_run_row
from storage.views import run_query
from tasks.finish_run import publish_and_record
from tasks.lineage import code_commit, installed_versions

ROOT = Path(__file__).parents[3]


def test_a_run_says_what_went_in_what_came_out_and_what_made_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    shards = shards_of([video("a"), video("fails")], [video("z")])
    plan_run(store, "r1", shards)
    for shard in shards:
        commit(store, "r1", shard)
    record = publish_and_record(store.root, "r1", config_json="{}", code_version="1")
    assert read_run_row(store, "r1") == record
    lineage = json.loads(record.lineage_json or "")
    (file,) = lineage["outputs"]["files"]
    content = store.read(file["name"])
    assert (file["rows"], file["sha256"]) == (3, hashlib.sha256(content).hexdigest())
    assert lineage["outputs"] == {
        "table": f"{store.root}/predictions",
        "rows": 3,
        "bytes": len(content),
        "files": [file],
    }
    plan = "\n".join(sorted(shard.shard_id for shard in shards)).encode()
    assert lineage["inputs"] == {
        "source": "/videos",
        "corpus": "films",
        "videos": 3,
        "bytes": 30,
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "bundle": None,
        "model_version": MODEL_VERSION,
    }
    assert lineage["versions"] == installed_versions()
    assert {"python", "torch", "av", "prefect", "dask", "cdlabel"} <= {
        name for name, version in lineage["versions"].items() if version
    }


def test_the_query_of_docs_operations_compares_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    sql = page.partition("<!-- lineage query -->")[2].partition("```sql\n")[2].partition("```")[0]
    store = open_store(str(tmp_path / "out"))
    for run_id, name in (("r1", "a"), ("r2", "b")):
        (shard,) = shards_of([video(name)])
        plan_run(store, run_id, [shard])
        commit(store, run_id, shard)
        publish_and_record(store.root, run_id, config_json="{}", code_version="1")
    answer = run_query(store, sql)
    assert answer.columns == ("run_id", "model_version", "torch", "av", "commit", "files")
    assert [(row[0], row[2], row[5]) for row in answer.rows] == [
        ("r2", installed_versions()["torch"], 1),
        ("r1", installed_versions()["torch"], 1),
    ]


def test_the_commit_is_that_of_the_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert (code_commit() or "").removesuffix("-dirty") == head.stdout.strip()
