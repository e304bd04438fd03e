"""The commands over OUT as a user runs them, on small finished runs."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from run_builders import NOON, finished_run, plan_run, shards_of, video
from typer.testing import CliRunner, Result

from flows.cli import app
from storage.filesystem import open_store
from storage.run_layout import plan_name, shards_folder

COUNT = "select count(*) as n, count(distinct video_id) as videos from predictions"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    store = open_store(str(tmp_path / "out"))
    finished_run(store, "r1", [video("a"), video("b")], [video("c")])
    finished_run(store, "r2", [video("d")], at=NOON + timedelta(hours=1))
    return tmp_path / "out"


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _json(*arguments: object) -> Any:
    result = _run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_table_that_was_compacted_and_cleaned_up_answers_as_before(out: Path):
    before = _json("query", out, COUNT)
    compacted = _json("compact", out)
    assert (compacted["is_new"], compacted["runs"], compacted["rows"]) == (True, 2, 4)
    assert not _json("compact", out)["is_new"]
    told = _json("gc", out, "--older-than", 0, "--dry-run")
    shards = [found for found in told["found"] if found["kind"] == "shards"]
    assert shards[0]["objects"] == 3
    assert list((out / shards_folder("r1")).iterdir()), "--dry-run deletes nothing"
    _json("gc", out, "--older-than", 0)
    assert not list((out / shards_folder("r1")).glob("*.parquet"))
    assert _json("query", out, COUNT) == before == [{"n": 4, "videos": 4}]
    assert _json("verify", out) == {"ok": True, "problems": []}
    assert _json("status", out, "r1")["videos_labeled"] == 3


def test_what_is_young_stays(out: Path):
    assert _json("gc", out)["found"] == []


def test_a_run_whose_files_were_changed_keeps_its_shards_and_is_named(out: Path):
    published = next((out / "predictions").rglob("r1-*.parquet"))
    published.write_bytes(published.read_bytes()[:-1])
    told = _json("gc", out, "--older-than", 0)
    assert [kept["path"] for kept in told["kept"]] == ["runs/r1"]
    assert len(list((out / shards_folder("r1")).glob("*.parquet"))) == 2
    failed = _run("verify", out)
    assert failed.exit_code == 1
    assert published.name in failed.stdout


def test_a_damaged_plan_is_one_problem_and_the_other_runs_are_checked(out: Path):
    (out / plan_name("r1")).write_bytes(b"edited")
    (next((out / "predictions").rglob("r2-*.parquet"))).unlink()
    problems = json.loads(_run("verify", out, "--json").stdout)["problems"]
    assert any(problem["path"].endswith(plan_name("r1")) for problem in problems)
    assert any("r2-" in problem["path"] for problem in problems)


@pytest.mark.parametrize("command", ["compact", "gc", "verify", "status"])
def test_a_folder_that_holds_something_else_is_refused_in_one_line(command: str, tmp_path: Path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("Dear")
    result = _run(command, tmp_path / "letters")
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "letters" / "a.txt").read_text() == "Dear"


def test_an_unfinished_run_is_nobodys_garbage(out: Path):
    store = open_store(str(out))
    plan_run(store, "open", shards_of([video("z")]), at=NOON + timedelta(hours=2))
    _json("gc", out, "--older-than", 0)
    assert (out / plan_name("open")).exists()
