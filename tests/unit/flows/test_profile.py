"""The profile of a command: a document that viewers open, where it may be written, and what is bounded in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cdmodel.errors import ConfigError, OutputError, RunError
from cdmodel.stretches import Stretch, Track, stretch
from cdmodel.types import Shard
from flows import profile
from flows.cli import app
from flows.config import LabelRunConfig, load_config, to_request
from flows.nightly_config import load_nightly_config
from flows.profile import profiled_shards, profiled_work, profiling
from flows.profile_document import ClockOffset, ProfiledCommand, ProfiledShard, profile_document
from tasks.profiled_shard import Profiled, WorkerThread
from tasks.work_identity import resolve_work

COMMAND = WorkerThread(host="here", process_id=7, thread_id=7)
NEAR = WorkerThread(host="here", process_id=8, thread_id=8)
FAR = WorkerThread(host="there", process_id=8, thread_id=9)
START_NS = 1_700_000_000 * 10**9
MS = 10**6


def _stretch(track: Track, began_ms: int, ended_ms: int, **facts: float) -> Stretch:
    duration_ns = (ended_ms - began_ms) * MS
    return Stretch(
        track=track,
        name=track,
        began_ns=START_NS + began_ms * MS,
        duration_ns=duration_ns,
        busy_ns=duration_ns,
        joined=1,
        facts=dict(facts),
    )


def _shard(worker: WorkerThread, began_ms: int, *, handed_out_ms: int = 10, received_ms: int = 100) -> ProfiledShard:
    return ProfiledShard(
        worker=worker,
        handed_out_ns=START_NS + handed_out_ms * MS,
        received_ns=START_NS + received_ms * MS,
        stretches=(
            _stretch("student", began_ms + 10, began_ms + 20),
            _stretch("video", began_ms + 5, began_ms + 30, decode_cpu_seconds=0.25),
            _stretch("shard", began_ms, began_ms + 40),
        ),
    )


def _document(*shards: ProfiledShard) -> dict[str, Any]:
    profiled = ProfiledCommand(
        began_ns=START_NS,
        command=COMMAND,
        stretches=(_stretch("driver", 0, 5), _stretch("driver", 5, 120)),
        shards=shards,
        busy_ns={"student": 10 * MS * len(shards)},
    )
    document: dict[str, Any] = json.loads(json.dumps(profile_document(profiled, version="1")))
    return document


def _complete(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def test_every_event_has_what_viewers_ask_for_and_a_named_process_and_thread() -> None:
    document = _document(_shard(NEAR, 20), _shard(FAR, 30))
    events = _complete(document)
    assert len(events) == 8
    assert all({"ph", "name", "ts", "dur", "pid", "tid"} <= event.keys() for event in events)
    named = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in document["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert {named[event["pid"], event["tid"]] for event in events} == {"command", "shards", "videos", "student"}
    processes = {event["args"]["name"] for event in document["traceEvents"] if event["name"] == "process_name"}
    assert processes == {
        "cdlabel here, process 7",
        "worker here, process 8",
        "worker there, process 8, thread 9",
    }


def test_times_are_microseconds_since_the_command_began() -> None:
    student = next(event for event in _complete(_document(_shard(NEAR, 20))) if event["name"] == "student")
    assert (student["ts"], student["dur"]) == (30_000, 10_000)


def test_the_decoders_seconds_are_a_curve_that_ends_with_the_last_video() -> None:
    document = _document(_shard(NEAR, 20))
    curve = [(event["ts"], event["args"]["seconds"]) for event in document["traceEvents"] if event["ph"] == "C"]
    assert curve == [(25_000, 0.25), (50_000, 0.0)]


@pytest.mark.parametrize(
    ("began_ms", "moved_ms"),
    [
        pytest.param(5_000, 4_940, id="ahead: ends with the receipt"),
        pytest.param(-5_000, -5_010, id="behind: begins when handed out"),
        pytest.param(30, 0, id="may be the same"),
    ],
)
def test_a_clock_that_is_provably_off_is_moved_no_further_than_what_was_seen_demands(
    began_ms: int, moved_ms: int
) -> None:
    document = _document(_shard(NEAR, 20), _shard(FAR, began_ms))
    far = max(_complete(document), key=lambda event: (event["pid"], event["name"] == "shard"))
    assert far["ts"] == (began_ms - moved_ms) * 1000
    clocks = document["otherData"]["clocks"]
    assert clocks["there"]["moved_back_seconds"] == pytest.approx(moved_ms / 1000)
    assert clocks["here"]["moved_back_seconds"] == 0


def test_a_clock_that_was_set_while_it_was_watched_is_left_alone() -> None:
    assert ClockOffset(at_least_ns=5, at_most_ns=-5).provable_ns == 0


def _work(receipts: list[str]) -> Any:
    from flows.shard_rounds import ShardWork

    return ShardWork(run=lambda shard, spec: shard, name="label", on_done=receipts.append)


def _told(shard_id: str, videos: int) -> Profiled[Any]:
    students = tuple(_stretch("student", video, video + 1) for video in range(videos))
    whole = (_stretch("commit", videos, videos + 1), _stretch("shard", 0, videos + 1))
    receipt: Any = SimpleNamespace(shard_id=shard_id, videos=videos)
    return Profiled(receipt=receipt, worker=NEAR, stretches=(*students, *whole))


def test_shards_and_work_are_what_they_were_where_nothing_is_profiled() -> None:
    shards: Iterator[Shard] = iter(())
    work = _work([])
    with profiling(None):
        assert profiled_shards(shards) is shards
        assert profiled_work(work) is work


def test_what_a_command_did_is_written_once_and_receipts_go_on(tmp_path: Path) -> None:
    receipts: list[Any] = []
    file = tmp_path / "profile.json"
    with profiling(str(file)):
        with profiling(str(file)), stretch("driver", "inner"):
            profiled_work(_work(receipts)).on_done(_told("s1", 2))
        assert not file.exists()
    document = json.loads(file.read_text())
    assert [receipt.shard_id for receipt in receipts] == ["s1"]
    assert [event["name"] for event in _complete(document)] == ["inner", "student", "student", "commit", "shard"]
    assert document["otherData"]["worker_seconds"]["student"] == pytest.approx(0.002)


@pytest.mark.parametrize("error", [RunError("run", "cannot go on"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_its_profile_and_one_that_was_refused_none(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), profiling(str(tmp_path / "failed.json")):
        raise error
    with pytest.raises(ConfigError), profiling(str(tmp_path / "refused.json")):
        raise ConfigError("key", "is wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["failed.json"]


def test_of_too_many_stretches_those_of_whole_shards_stay_and_the_sums_count_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "MOST_STRETCHES", 10)
    file = tmp_path / "profile.json"
    with profiling(str(file)):
        on_done = profiled_work(_work([])).on_done
        for number in range(3):
            on_done(_told(f"s{number}", 6))
    document = json.loads(file.read_text())
    names = [event["name"] for event in _complete(document)]
    assert (names.count("student"), names.count("shard"), names.count("commit")) == (6, 3, 3)
    assert document["otherData"]["left_out"] == 12
    assert document["otherData"]["worker_seconds"]["student"] == pytest.approx(0.018)


def test_a_profile_that_cannot_be_written_in_the_end_costs_nobody_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with profiling(str(folder / "profile.json")):
        folder.rmdir()
    assert "the profile is lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"), [("there.json", "stands there already"), ("nowhere/p.json", "its folder does not exist")]
)
def test_a_file_that_stands_or_has_no_folder_is_refused_before_any_work(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "there.json").write_text("kept")
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    (videos / "one.mp4").write_bytes(b"nothing")
    ended = CliRunner().invoke(app, ["label", str(videos), "--out", str(out), "--profile", str(tmp_path / name)])
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"cdlabel: {tmp_path / name}: ")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not out.exists()
    assert (tmp_path / "there.json").read_text() == "kept"
    with pytest.raises(OutputError, match=reason), profiling(str(tmp_path / name)):
        raise AssertionError("nothing may have begun")


def _config(tmp_path: Path, place: str | None) -> LabelRunConfig:
    return load_config(None, [], {"source": str(tmp_path), "out": str(tmp_path / "out"), "profile": place})


@pytest.mark.parametrize("name", ["", "/runs/p.json", "/p.json"])
def test_a_file_among_the_tables_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="profile must lie outside OUT"):
        _config(tmp_path, f"{tmp_path}/out{name}")


def test_a_profile_is_no_part_of_what_the_work_is(tmp_path: Path) -> None:
    plain, profiled = (resolve_work(to_request(_config(tmp_path, name))) for name in (None, str(tmp_path / "p.json")))
    assert plain.fingerprint == profiled.fingerprint


def test_a_schedule_has_no_one_file_for_all_its_nights(tmp_path: Path) -> None:
    file = tmp_path / "nightly.toml"
    file.write_text('source = "/v"\nout = "/o"\nprofile = "/p.json"\n[schedule]\ncron = "0 2 * * *"\n')
    with pytest.raises(ConfigError, match="belongs to one run"):
        load_nightly_config(file)
