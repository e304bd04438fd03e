"""Rates from a run: what the model made, it is calibrated to."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from cdmodel.types import VideoRef

pytest.importorskip("simpy", reason="the model of a run needs simpy, an extra called bench")
SCRIPT = "simulation_trials"
CLIPS, CLIPS_TEACHER = (1, 4, 9, 30), (0, 1, 3, 0)


@pytest.fixture(scope="module")
def trials(benchmark_module: ModuleType) -> ModuleType:
    return benchmark_module


@pytest.mark.parametrize("others_taken", [0.0, 0.7, 1.7])
def test_a_run_that_the_model_made_gives_its_rates_back(
    trials: ModuleType, others_taken: float, monkeypatch: pytest.MonkeyPatch
):
    from run_simulation import RunSettings, VideoRates

    monkeypatch.setattr(trials, "count_cores", lambda: 2)
    rates = VideoRates(
        decode_seconds_per_video=0.006,
        decode_seconds_per_clip=0.003,
        teacher_decode_seconds_per_video=0.002,
        teacher_decode_seconds_per_clip=0.001,
        student_seconds_per_video=0.004,
        student_seconds_per_clip=0.002,
        teacher_seconds_per_video=0.01,
        teacher_seconds_per_clip=0.05,
        hand_over_seconds=0.03,
    )
    asked = {f"/{n}": (CLIPS[n % 4], CLIPS_TEACHER[n % 4]) for n in range(40)}
    videos = [VideoRef(video_id=f"{n:03}", uri=f"/{n}", video_version="1", size_bytes=1) for n in range(40)]
    seconds = trials.predict(videos, asked, rates, RunSettings(workers=1), others_taken).labeling_seconds
    # Three shards that follow one another without a pause; launch and end take a second each.
    bounds = [101.0 + seconds * part / 3 for part in range(4)]
    run = trials.RealRun(
        began=100.0,
        wall_seconds=seconds + 2.0,
        others=trials.Others(launch=0.0, labeling=others_taken, finish=0.0),
        shards=tuple(
            trials.ShardTimes(began=began, committed=committed, worker_seconds=committed - began)
            for began, committed in pairwise(bounds)
        ),
        videos=tuple(_times(trials, uri, rates.work(*clips)) for uri, clips in asked.items()),
        entries=3,
        read_requests=40,
        labeling_seconds=seconds,
    )
    known = trials.calibrate(run, videos, dispatch_seconds=0.0)
    assert known.rates.hand_over_seconds == pytest.approx(0.03, rel=0.02)
    assert known.rates.teacher_seconds_per_clip == pytest.approx(0.05)
    assert known.rates.decode_seconds_per_video == pytest.approx(0.006)
    assert (known.settings.launch_seconds, known.settings.finish_seconds) == pytest.approx((1.0, 1.0))
    again = trials.predict(videos, asked, known.rates, known.settings, others_taken)
    assert again.wall_seconds == pytest.approx(run.wall_seconds, rel=0.01)


def test_what_surrounds_labeling_waits_where_others_leave_less_than_a_core(
    trials: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trials, "count_cores", lambda: 2)
    assert trials.core_left(0.5) == 1.0
    assert trials.core_left(1.5) == 0.5
    assert trials.core_left(2.0) == pytest.approx(0.1)


def _times(trials: ModuleType, uri: str, work: Any) -> Any:
    return trials.VideoTimes(
        uri=uri,
        clips=work.clips,
        clips_teacher=work.clips_teacher,
        decode_seconds=work.decode_seconds,
        teacher_decode_seconds=work.teacher_decode_seconds,
        student_seconds=work.student_seconds,
        teacher_seconds=work.teacher_seconds,
    )
