"""From videos to rows, end to end: labeling, doing nothing twice, dying half way, disk and S3 alike."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from aimed_proxy import proxy_before
from s3_endpoint import IS_REAL

Cdlabel = Callable[..., subprocess.CompletedProcess[str]]
Rows = Callable[..., list[dict[str, Any]]]
CORPUS_VIDEOS = 24
"""As the fixture ``corpus`` generates; beside them stands a broken one."""
SMALL_SHARDS = ("--set", "sharding.videos_per_shard=4", "--workers", "2")

DECISIONS = (
    "select uri.regexp_extract('[^/]+$') as name, status, error_kind, label, confidence, decided_by, clips, "
    "frames_decoded, student_flops, teacher_flops from predictions order by name"
)


@pytest.fixture(scope="session")
def labeled(cdlabel: Cdlabel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The generated corpus, labeled: OUT and the run's row."""
    out = tmp_path_factory.mktemp("labeled") / "out"
    return out, json.loads(cdlabel("label", corpus, "--out", out, "--json", *SMALL_SHARDS).stdout)


def test_every_video_gets_exactly_one_row_and_the_broken_one_says_why(labeled: tuple[Path, Any], rows: Rows) -> None:
    out, run = labeled
    assert (run["videos_planned"], run["videos_failed"]) == (CORPUS_VIDEOS + 1, 1)
    counts = rows(out, "select count(*) as n, count(distinct video_id) as ids from predictions")
    assert counts == [{"n": CORPUS_VIDEOS + 1, "ids": CORPUS_VIDEOS + 1}]
    assert rows(out, "select error_kind, uri.regexp_extract('[^/]+$') as name from failures") == [
        {"error_kind": "unreadable", "name": "broken.mp4"}
    ]


def test_the_demo_bundle_is_far_better_than_chance(labeled: tuple[Path, Any], corpus: Path, rows: Rows) -> None:
    out, _ = labeled
    right = rows(
        out,
        "select avg((p.label = truth.label)::int) as share from predictions p "
        f"join read_csv('{corpus}/labels.csv') truth on p.uri.ends_with(truth.uri)",
    )
    assert right[0]["share"] > 0.5


def test_the_rows_add_up_to_the_run(labeled: tuple[Path, Any], rows: Rows) -> None:
    out, run = labeled
    sums = rows(
        out,
        "select sum(student_flops) as student_flops, sum(teacher_flops) as teacher_flops, "
        "sum(dense_teacher_flops) as dense_teacher_flops, sum(clips_teacher) as clips_teacher, "
        "sum(frames_decoded) as frames_decoded, sum(bytes_read) as bytes_read from predictions",
    )[0]
    assert {name: int(value) for name, value in sums.items()} == {name: run[name] for name in sums}
    clips = rows(out, "select count(*) as n, count(*) filter (where scored_by = 'teacher') as by_teacher from clips")
    assert clips == [{"n": run["clips_planned"], "by_teacher": run["clips_teacher"]}]


def test_running_again_relabels_nothing_and_says_so(labeled: tuple[Path, Any], cdlabel: Cdlabel, corpus: Path) -> None:
    out, _ = labeled
    again = cdlabel("label", corpus, "--out", out, *SMALL_SHARDS)
    assert "nothing to label" in again.stderr
    assert json.loads(cdlabel("plan", corpus, "--out", out, "--json").stdout)["videos"] == 0


def test_a_profile_shows_every_shard_and_video_and_changes_no_row(
    labeled: tuple[Path, Any], cdlabel: Cdlabel, corpus: Path, rows: Rows, tmp_path: Path
) -> None:
    plain, _ = labeled
    out, file = tmp_path / "out", tmp_path / "profile.json"
    told = cdlabel("label", corpus, "--out", out, "--profile", file, *SMALL_SHARDS)
    assert f"the profile stands in {file}" in told.stderr
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]
    counts = Counter(event["cat"] for event in events)
    assert counts["video"] == CORPUS_VIDEOS + 1
    assert counts["shard"] == counts["commit"] == -(-(CORPUS_VIDEOS + 1) // 4)
    assert counts["student"] >= CORPUS_VIDEOS
    assert {"plan", "flow", "start workers", "label the shards", "publish"} <= {
        event["name"] for event in events if event["cat"] == "driver"
    }
    assert rows(out, DECISIONS) == rows(plain, DECISIONS)


def test_verify_finds_a_changed_file(labeled: tuple[Path, Any], cdlabel: Cdlabel, tmp_path: Path) -> None:
    out, _ = labeled
    assert cdlabel("verify", out).stdout.strip() == "ok"
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", out, copy], check=True)
    published = next((copy / "predictions").rglob("*.parquet"))
    published.write_bytes(published.read_bytes()[:-10])
    assert "damaged_file" in cdlabel("verify", copy, expect=1).stdout


def test_status_counts_the_run(labeled: tuple[Path, Any], cdlabel: Cdlabel) -> None:
    out, run = labeled
    status = json.loads(cdlabel("status", out, "--json").stdout)
    assert (status["run_id"], status["finished"], status["videos_pending"]) == (run["run_id"], True, 0)


@pytest.mark.skipif(not IS_REAL, reason="one more run: make test-s3")
def test_through_s3_the_rows_are_the_same(
    labeled: tuple[Path, Any], cdlabel: Cdlabel, corpus: Path, rows: Rows, s3: dict[str, str], archive: str
) -> None:
    out, _ = labeled
    store = s3fs.S3FileSystem(
        endpoint_url=s3["AWS_ENDPOINT_URL"], key=s3["AWS_ACCESS_KEY_ID"], secret=s3["AWS_SECRET_ACCESS_KEY"]
    )
    store.put(str(corpus / "videos") + "/", f"{archive}/videos/", recursive=True)
    cdlabel("label", f"s3://{archive}/videos", "--out", f"s3://{archive}/out", *SMALL_SHARDS, **s3)
    assert rows(f"s3://{archive}/out", DECISIONS, **s3) == rows(out, DECISIONS)
    assert cdlabel("verify", f"s3://{archive}/out", **s3).stdout.strip() == "ok"


@pytest.mark.skipif(not IS_REAL, reason="two more runs: make test-s3")
def test_a_bucket_that_becomes_read_only_while_labeling_ends_the_run_and_running_again_goes_on(
    cdlabel: Cdlabel, corpus: Path, rows: Rows, s3: dict[str, str], archive: str
) -> None:
    out = f"s3://{archive}/out"
    with proxy_before(s3["AWS_ENDPOINT_URL"]) as proxy:
        # The plan and a shard come to stand before.
        proxy.aim("403", at=("put new",), skip=5)
        through_proxy = {**s3, "AWS_ENDPOINT_URL": proxy.endpoint}
        refused = cdlabel("label", corpus, "--out", out, *SMALL_SHARDS, expect=1, **through_proxy)
    assert "access denied" in refused.stderr
    assert "going on with" in cdlabel("label", corpus, "--out", out, *SMALL_SHARDS, **s3).stderr
    counts = rows(out, "select count(*) as n, count(distinct video_id) as ids from predictions", **s3)
    assert counts == [{"n": CORPUS_VIDEOS + 1, "ids": CORPUS_VIDEOS + 1}]
    assert cdlabel("verify", out, **s3).stdout.strip() == "ok"


@pytest.mark.parametrize(("part", "failed"), [("actions", False), ("nasty", True)])
def test_real_videos_each_get_one_row(
    cdlabel: Cdlabel,
    embedded: dict[str, str],
    rows: Rows,
    real_videos: Path,
    tmp_path: Path,
    part: str,
    failed: bool,
) -> None:
    chosen = sorted(path for path in (real_videos / part).rglob("*") if path.is_file() and path.name != TWIN)
    chosen = chosen[::4] if part == "actions" else chosen  # some of each folder do
    manifest, roots = tmp_path / "videos.csv", json.dumps([str(real_videos)])
    manifest.write_text("\n".join(["uri", *map(str, chosen)]) + "\n")
    command = ("label", manifest, "--out", tmp_path / "out", "--json", "--set", f"corpus.roots={roots}")
    run, files = json.loads(cdlabel(*command, env=embedded).stdout), len(chosen)
    assert run["videos_planned"] == files
    assert bool(run["videos_failed"]) == failed
    counts = rows(tmp_path / "out", "select count(*) as n, count(distinct video_id) as ids from predictions")
    assert counts == [{"n": files, "ids": files}]
    if failed:
        kinds = rows(
            tmp_path / "out", "select error_kind, count(*) as n from failures where status = 'failed' group by 1"
        )
        assert {kind["error_kind"]: kind["n"] for kind in kinds} == NASTY_FAILURES


TWIN = "mp4__long_1080p_videoonly_lowbitrate.mp4"
"""Six minutes of the same pictures as in another file."""
NASTY_FAILURES = {"no_video_stream": 43, "unreadable": 25, "no_frames": 7, "decode_error": 2, "unsupported_codec": 1}
"""As a plain PyAV loop finds them, which cannot open one more: the 3gp whose metadata is not UTF-8."""
