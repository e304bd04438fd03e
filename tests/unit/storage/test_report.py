"""The report of small finished runs, as facts, as a page and as a command."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import fields, replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from coloured_videos import encode_colours
from report_runs import HOSTILE, HOSTILE_NAME, reported_run
from run_builders import NOON, commit, plan_run, shards_of, video
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.report_page import render_report
from storage.filesystem import Store, open_store
from storage.run_record import RunRecord
from tasks.report_facts import gather_report
from tasks.report_thumbnails import NoThumbnail, Thumbnail, make_thumbnails


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One finished run, ``r1``, which nobody changes."""
    store = open_store(str(tmp_path_factory.mktemp("reported") / "out"))
    reported_run(store)
    return store


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _page(store: Store, run_id: str | None = None) -> str:
    facts = gather_report(store.root, run_id, uncertain_videos=3)
    pictures = () if facts.rows is None else (Thumbnail(jpeg=b"jpeg", width=160, height=90, at_seconds=1.0),)
    return render_report(facts, pictures, out=store.root, made_at=NOON, version="0")


def test_the_facts_add_up_to_the_runs_rows(finished: Store):
    facts = gather_report(finished.root, None, uncertain_videos=2)
    record, rows = facts.record, facts.rows
    assert record is not None
    assert rows is not None
    assert record.audit_videos is not None
    assert record.audit_agreement is not None
    assert sum(label.videos for label in rows.labels) == record.videos_labeled + record.videos_partial == 12
    assert [(label.label, label.videos) for label in rows.labels] == [("run", 11), (HOSTILE, 1)]
    assert sum(label.clips_teacher for label in rows.labels) == record.clips_teacher
    assert (
        sum(bin_.videos_student for bin_ in rows.confidence)
        == sum(bin_.videos_teacher for bin_ in rows.confidence)
        == 6
    )
    assert sum(bin_.videos for bin_ in rows.reliability) == record.audit_videos == 4
    agreeing = sum(bin_.videos * bin_.agreement for bin_ in rows.reliability)
    assert agreeing == pytest.approx(record.audit_videos * record.audit_agreement)
    kinds = {(kind.status, kind.error_kind): kind.videos for kind in rows.failures}
    assert kinds == {("failed", "decode_error"): 1, ("failed", "not_found"): 1, ("partial", "decode_error"): 1}
    assert [uncertain.video.video_id for uncertain in rows.uncertain] == ["v000", "v001"]
    assert rows.uncertain[0].clips[1].teacher_label_id == 1
    assert rows.label_names[0] == "sit"


def test_many_labels_are_shown_as_the_most_frequent_and_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.report_facts.LABELS_SHOWN", 1)
    reported_run(store)
    rows = gather_report(store.root, None, uncertain_videos=0).rows
    assert rows is not None
    assert [(label.label, label.labels, label.videos) for label in rows.labels] == [("run", 1, 11), (None, 1, 1)]
    assert rows.uncertain == ()


def test_the_history_ends_with_the_run_that_is_reported(store: Store):
    for night in range(3):
        reported_run(store, f"r{night}", NOON + timedelta(days=night))
    assert [run.run_id for run in gather_report(store.root, "r1", uncertain_videos=0).history] == ["r0", "r1"]
    assert [run.run_id for run in gather_report(store.root, None, uncertain_videos=0).history] == ["r0", "r1", "r2"]
    page = _page(store)
    assert "over 3 runs" in page
    assert "agreement with the teacher" in page


class _Tags(HTMLParser):
    """What a browser would make of the page: its elements, and what they ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.requests: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        wanted = [
            value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action", "poster")
        ]
        self.requests += [value for value in wanted if not value.startswith("data:")]

    def handle_data(self, text: str) -> None:
        self.text += text


def test_hostile_texts_come_out_as_text(finished: Store):
    tags = _Tags()
    tags.feed(page := _page(finished))
    assert not tags.tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert tags.handlers == tags.requests == []
    assert "<script>alert('x')</script>" in tags.text
    assert HOSTILE_NAME in tags.text
    assert "\\x00\\x1b[31m\\u202egpj.exe" in tags.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)


def test_a_page_asks_nothing_of_anybody(finished: Store):
    page = _page(finished)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)
    assert "default-src 'none'" in page
    assert page.count("data:image/jpeg;base64,anBlZw==") == 1


WATCHED = {"alarms": {"max_student_drift": 0.25, "max_failed_share": 0.5}}


@pytest.mark.parametrize(("drift", "rings"), [(0.5, True), (0.1, False), (None, False)])
def test_an_alarm_stands_above_everything_else(finished: Store, drift: float | None, rings: bool):
    facts = gather_report(finished.root, None, uncertain_videos=0)
    assert facts.record is not None
    record = replace(facts.record, student_drift=drift, audit_seconds=2.0, config_json=json.dumps(WATCHED))
    page = render_report(replace(facts, record=record), (), out=finished.root, made_at=NOON, version="0")
    assert ("An alarm rang in this run." in page) == rings
    if rings:
        assert page.index("student drift</strong>: ") < page.index('class="kpis"')
    assert "audit: 2.0 s" in page


def test_a_budget_that_was_not_enough_is_told(finished: Store):
    facts = gather_report(finished.root, None, uncertain_videos=0)
    assert facts.record is not None
    budget = {"teacher_flops": {"limit": 2e12, "spent": 1.5e12}, "usd": {"limit": 3, "spent": 1.25}}
    record = replace(facts.record, budget_json=json.dumps(budget), clips_unfunded=7, videos_unfunded=1)
    page = render_report(replace(facts, record=record), (), out=finished.root, made_at=NOON, version="0")
    assert "7 clips in 1 video were left to the student" in page
    assert re.search(r"teacher flops</th><td[^>]*>1.50 TFLOPs</td><td[^>]*>2.00 TFLOPs", page)
    assert re.search(r"usd</th><td[^>]*>\$1.25</td><td[^>]*>\$3.00", page)


def test_a_run_that_goes_on_is_reported_as_far_as_it_is_known(store: Store, tmp_path: Path):
    reported_run(store)
    shards = shards_of([video("a"), video("b")], [video("c")])
    plan_run(store, "open", shards, at=NOON + timedelta(days=1))
    commit(store, "open", shards[0], at=NOON + timedelta(days=1))
    result = _run("report", store.root, "--html", tmp_path / "open.html")
    assert result.exit_code == 0, result.output
    assert "not finished" in result.stdout
    page = (tmp_path / "open.html").read_text()
    assert "2 of 3 videos are done, 1 still to do" in page
    assert "compute that the teacher" not in page
    facts = json.loads(_run("report", store.root, "--json").stdout)
    assert (facts["run"], facts["rows"], facts["status"]["videos_pending"]) == (None, None, 1)
    assert json.loads(_run("report", store.root, "r1", "--json").stdout)["run"]["run_id"] == "r1"


def test_a_run_without_a_video_is_reported_as_that(store: Store):
    record = reported_run(store, videos=1)
    facts = gather_report(store.root, None, uncertain_videos=3)
    assert facts.rows is not None
    nothing = {field.name: 0 for field in fields(RunRecord) if field.type == "int"}
    empty = replace(
        facts,
        record=replace(record, **nothing, saved_flops_share=None, saved_seconds_share=None, audit_videos=None),
        status=replace(facts.status, videos_planned=0, videos_labeled=0, videos_partial=0, videos_failed=0),
        rows=replace(facts.rows, labels=(), reliability=(), failures=(), uncertain=(), confidence=(), label_names={}),
    )
    assert "The run had no video to label." in render_report(empty, (), out=store.root, made_at=NOON, version="0")


def test_the_command_prints_the_receipt_and_replaces_an_older_page(finished: Store, tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text("last night's")
    result = _run("report", finished.root, "r1", "--html", page, "--pictures", 2)
    assert result.exit_code == 0, result.output
    assert "saved FLOPs" in result.stdout
    assert str(page) in result.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert page.stat().st_mode & 0o444 == 0o444 & ~_umask()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html"]


def test_a_video_that_is_gone_costs_its_picture_and_nothing_else(finished: Store):
    rows = gather_report(finished.root, None, uncertain_videos=2).rows
    assert rows is not None
    assert make_thumbnails(rows.uncertain) == (NoThumbnail(reason="does not exist"),) * 2


def test_a_picture_is_the_clip_that_counts_most(store: Store, tmp_path: Path):
    from PIL import Image

    reported_run(store, videos_folder=tmp_path)
    (tmp_path / "v000.mp4").write_bytes(encode_colours(("red", "green", "blue"), seed=1))
    (tmp_path / "v001.mp4").write_bytes(b"no video")
    rows = gather_report(store.root, None, uncertain_videos=2).rows
    assert rows is not None
    picture, placeholder = make_thumbnails(rows.uncertain)
    assert isinstance(picture, Thumbnail)
    assert isinstance(placeholder, NoThumbnail)
    assert "cannot be opened" in placeholder.reason
    heaviest = max(rows.uncertain[0].clips, key=lambda clip: clip.weight)
    assert heaviest.start_seconds < picture.at_seconds < heaviest.end_seconds
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        # The rows say 320 x 240, which the box makes 266 x 200.
        assert image.size == (picture.width, picture.height) == (266, 200)


def test_a_page_of_endless_names_is_still_one_to_be_mailed(finished: Store):
    facts = gather_report(finished.root, None, uncertain_videos=0)
    assert facts.rows is not None
    endless = replace(facts.rows.labels[0], label="<b>" * 100_000)
    page = render_report(
        replace(facts, rows=replace(facts.rows, labels=(endless,) * 30)),
        (),
        out=finished.root,
        made_at=NOON,
        version="0",
    )
    assert len(page) < 300_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{out}", "no-such-run"), "there is no run no-such-run here"),
        (("{empty}",), "no run stands here"),
        (("{out}", "--html", "{empty}"), "is a folder; name a file"),
        (("{out}", "--html", "{empty}/no/report.html"), "cannot be written"),
        (("{out}", "--html", "/dev/null"), "is no regular file"),
        (("{out}", "--html", "s3://bucket"), "names no object; name one in it"),
    ],
)
def test_what_cannot_be_done_is_one_line(finished: Store, tmp_path: Path, arguments: tuple[str, ...], said: str):
    (tmp_path / "empty").mkdir()
    places = {"out": finished.root, "empty": str(tmp_path / "empty")}
    result = _run("report", *(argument.format(**places) for argument in arguments))
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
