"""What to label next, from the tables of an OUT."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from run_builders import NOON, context, plan_run, prediction, record_of, shards_of, video
from typer.testing import CliRunner

from cdmodel.errors import RunError
from cdmodel.example_selection import LEARNED, role_of
from cdmodel.types import RankedLabel, VideoAudit
from flows.cli import app
from storage.corrections import match_corrections, read_corrections
from storage.filesystem import Store, open_store
from storage.publish import finish_run, publish_run
from storage.run_store import commit_shard
from storage.views import run_query
from tasks.choose_videos import choose_videos

CONFIDENCES = {"sure": 0.99, "unsure": 0.4, "unsure-too": 0.41, "audited": 0.2, "other-class": 0.5, "measures": 0.1}


def _group(name: str) -> str:
    """Return a recording that is learned from, or for one video, one that measures."""
    groups = (f"{name} {number}" for number in count())
    return next(group for group in groups if (role_of(group) in LEARNED) is (name != "measures"))


@pytest.fixture
def out(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"))
    refs = [replace(video(name), group=_group(name)) for name in sorted(CONFIDENCES)]
    [shard] = shards_of(refs)
    plan_run(store, "night", [shard])
    outcomes = []
    for ref in refs:
        confidence = CONFIDENCES[ref.video_id]
        names = ("sit", "run") if ref.video_id == "other-class" else ("run", "sit")
        top = tuple(
            RankedLabel(label_id=("sit", "run").index(name), label=name, probability=probability)
            for name, probability in zip(names, (confidence, 1 - confidence), strict=True)
        )
        audit = VideoAudit(teacher_label_id=1, confidences=(0.9,)) if ref.video_id == "audited" else None
        outcomes.append(replace(prediction(ref), top_labels=top, audit=audit))
    commit_shard(store, outcomes, context("night", shard.shard_id), NOON)
    finish_run(store, replace(record_of("night"), labels=("sit", "run")), publish_run(store, "night").run)
    return store


def test_the_view_says_what_an_answer_is_worth_and_why(out: Store) -> None:
    rows = run_query(out, "select video_id, worth, why from worth_labeling order by worth desc, video_id").rows
    assert [row[0] for row in rows] == ["other-class", "measures", "unsure", "unsure-too", "sure"]
    worth = {row[0]: row[1] for row in rows}
    assert worth["unsure"] == pytest.approx(0.6 * (5 / (4 * 2)) ** 0.5, rel=1e-3)
    assert "student said run" in {row[0]: row[2] for row in rows}["other-class"]


def test_a_person_gets_a_table_that_is_corrections_once_it_is_filled_in(out: Store, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["choose", out.root, "--videos", "2", "--csv"])
    assert told.exit_code == 0, told.output
    table = tmp_path / "ask.csv"
    lines = told.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["video_id", "other-class", "unsure"]
    table.write_text("\n".join([lines[0], lines[1].replace(",,", ",run,", 1), lines[2]]) + "\n")
    known = dict(run_query(out, "select video_id, uri from latest").rows)
    said = match_corrections(str(table), read_corrections(str(table)), known, ("sit", "run"))
    assert {uri: found.label for uri, found in said.items()} == {known["other-class"]: "run"}


def test_who_measures_or_has_a_label_already_is_not_asked_about(out: Store, tmp_path: Path) -> None:
    chosen = choose_videos(out.root, 9, "hand")
    assert sorted(row[0] for row in chosen.rows) == ["other-class", "sure", "unsure", "unsure-too"]
    table = tmp_path / "made.csv"
    table.write_text("video_id,uri,label\nsure,,sit\n,/videos/unsure.mp4,sit\nother-class,,\n")
    chosen = choose_videos(out.root, 9, "teacher", str(table))
    assert sorted(row[0] for row in chosen.rows) == ["other-class", "unsure-too"], (
        "a row without a label is no correction"
    )


def test_wrong_requests_say_what_to_do(out: Store, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["choose", out.root, "--videos", "0"])
    assert (refused.exit_code, refused.stderr) == (2, "cdlabel: --videos: must be at least 1, got 0\n")
    with pytest.raises(RunError, match="label some first"):
        choose_videos(str(tmp_path / "nothing"), 3, "teacher")
