"""The discrete-event model of a run: what must hold whatever the rates are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from cdmodel.types import Shard, VideoRef
from tasks.sharding import ShardingSettings, cut_shards

pytest.importorskip("simpy", reason="the model of a run needs simpy, an extra called bench")
SCRIPT = "run_simulation"
SHARDS, VIDEOS_PER_SHARD = 40, 8
SECONDS_PER_SHARD = 600.0


@pytest.fixture(scope="module")
def model(benchmark_module: ModuleType) -> ModuleType:
    return benchmark_module


@pytest.fixture(scope="module")
def rates(model: ModuleType) -> Any:
    return model.VideoRates(
        decode_seconds_per_video=0.01,
        decode_seconds_per_clip=0.02,
        teacher_decode_seconds_per_video=0.005,
        teacher_decode_seconds_per_clip=0.01,
        student_seconds_per_video=0.0,
        student_seconds_per_clip=0.005,
        teacher_seconds_per_video=0.01,
        teacher_seconds_per_clip=0.05,
        hand_over_seconds=0.004,
    )


@pytest.fixture(scope="module")
def archive(model: ModuleType, rates: Any) -> Any:
    shape = model.ArchiveShape(median_seconds=20.0, request_seconds=0.0, bytes_per_second_read=float("inf"))
    return model.draw_archive(shape, rates, SHARDS * VIDEOS_PER_SHARD, seed=3)


@pytest.fixture(scope="module")
def shards(archive: Any) -> tuple[Shard, ...]:
    return cut_shards(archive.videos, ShardingSettings(videos_per_shard=VIDEOS_PER_SHARD), "fingerprint")


def known(model: ModuleType, shards: tuple[Shard, ...]) -> Any:
    """Return labor that takes ten minutes for every shard, and twice that one video at a time."""
    seconds = model.WorkerSeconds(with_look_ahead=SECONDS_PER_SHARD, one_by_one=2 * SECONDS_PER_SHARD)
    by_shard: Mapping[str, Any] = {shard.shard_id: seconds for shard in shards}
    return lambda env: model.KnownSeconds(env, by_shard)


def videos_committed(run: Any, shards: tuple[Shard, ...]) -> Counter[str]:
    videos = {shard.shard_id: [video.video_id for video in shard.videos] for shard in shards}
    return Counter(video for shard_id in run.committed for video in videos[shard_id])


def test_one_worker_on_one_core_takes_the_sum_of_all_stages(model: ModuleType, archive: Any, shards: tuple[Shard, ...]):
    def labor(env: Any) -> Any:
        return model.Pipeline(env, archive.work, model.Processor(env, 1), videos_ahead=1)

    run = model.simulate(shards, labor, model.RunSettings(workers=1))
    works = archive.work.values()
    total = sum(
        work.decode_seconds
        + work.teacher_decode_seconds
        + work.student_seconds
        + work.teacher_seconds
        + work.hand_over_seconds
        for work in works
    )
    assert run.wall_seconds == pytest.approx(total)


def test_one_worker_takes_its_shards_and_what_surrounds_them(model: ModuleType, shards: tuple[Shard, ...]):
    settings = model.RunSettings(
        workers=1, launch_seconds=7.0, start_seconds=5.0, dispatch_seconds=0.5, shard_seconds=1.5, finish_seconds=3.0
    )
    run = model.simulate(shards, known(model, shards), settings)
    assert run.wall_seconds == pytest.approx(7.0 + 5.0 + len(shards) * (SECONDS_PER_SHARD + 2.0) + 3.0)
    assert run.held_seconds == pytest.approx(run.wall_seconds - 7.0 - 3.0)


def test_decoding_ahead_hides_decoding_behind_the_models(model: ModuleType, archive: Any, shards: tuple[Shard, ...]):
    ahead, alone = (
        model.seconds_alone(
            shards[0], archive.work, model.Machine(cores=4, has_gpu=True, videos_ahead=2), one_by_one=one_by_one
        )
        for one_by_one in (False, True)
    )
    works = [archive.work[video.video_id] for video in shards[0].videos]
    models = sum(work.student_seconds + work.teacher_seconds for work in works)
    decode = sum(work.decode_seconds for work in works)
    assert models < ahead < alone
    assert alone > decode


def test_a_long_video_is_decoded_no_further_ahead_than_its_slots_hold(model: ModuleType):
    """Decoding is all there is: what does not fit into the slots has to be decoded when the video's turn has come."""
    clips, clips_in_slots = 160, model.SLOTS * model.CLIPS_PER_BATCH
    work = model.VideoWork(
        clips=clips,
        clips_teacher=0,
        decode_seconds=float(clips),
        teacher_decode_seconds=0.0,
        student_seconds=0.0,
        teacher_seconds=0.0,
    )
    shard = Shard(
        shard_id="long",
        videos=tuple(video_ref(number) for number in range(5)),
    )
    everything = {video.video_id: work for video in shard.videos}
    machine = model.Machine(cores=8, has_gpu=True, videos_ahead=4)
    seconds = model.seconds_alone(shard, everything, machine, one_by_one=False)
    # Four of five videos had their slots full, and one batch more in hand, when their turn came.
    assert seconds == pytest.approx(clips + 4 * (clips - clips_in_slots - model.CLIPS_PER_BATCH))


def test_two_workers_nearly_halve_the_time(model: ModuleType, archive: Any, shards: tuple[Shard, ...]):
    def labor(env: Any) -> Any:
        return model.Pipeline(env, archive.work, model.Processor(env, 8), videos_ahead=1)

    one, two = (model.simulate(shards, labor, model.RunSettings(workers=workers)) for workers in (1, 2))
    assert 0.5 <= two.wall_seconds / one.wall_seconds < 0.55


def test_two_workers_on_the_cores_of_one_gain_nothing(model: ModuleType, archive: Any, shards: tuple[Shard, ...]):
    def labor(env: Any) -> Any:
        return model.Pipeline(env, archive.work, model.Processor(env, 1, slice_seconds=0.02), videos_ahead=1)

    one, two = (model.simulate(shards, labor, model.RunSettings(workers=workers)) for workers in (1, 2))
    assert two.wall_seconds == pytest.approx(one.wall_seconds)


def test_other_programs_take_their_share_first(model: ModuleType, archive: Any, shards: tuple[Shard, ...]):
    def labor(others: float) -> Any:
        return lambda env: model.Pipeline(
            env, archive.work, model.Processor(env, 2, others=others, slice_seconds=0.02), videos_ahead=1
        )

    alone, beside_one, beside_more = (
        model.simulate(shards, labor(others), model.RunSettings(workers=2)).wall_seconds for others in (0.0, 1.0, 1.5)
    )
    assert beside_one == pytest.approx(2 * alone, rel=0.02)
    assert beside_more == pytest.approx(4 * alone, rel=0.04)


def test_without_preemption_nothing_is_done_twice(model: ModuleType, shards: tuple[Shard, ...]):
    run = model.simulate(shards, known(model, shards), model.RunSettings(workers=1))
    assert (run.preemptions, run.attempts, run.videos_blamed) == (0, len(shards), 0)
    assert run.held_seconds == pytest.approx(len(shards) * SECONDS_PER_SHARD)


def test_preemption_makes_a_run_longer_and_costs_attempts(model: ModuleType, shards: tuple[Shard, ...]):
    calm, shaken = (
        model.simulate(
            shards,
            known(model, shards),
            model.RunSettings(workers=5, preemptions_per_worker_hour=rate, replacement_seconds=60.0),
        )
        for rate in (0.0, 1.0)
    )
    assert shaken.preemptions > 0
    assert shaken.attempts > SHARDS
    assert shaken.wall_seconds > calm.wall_seconds
    assert shaken.held_seconds > calm.held_seconds


@pytest.mark.parametrize("seed", range(10))
def test_every_video_is_labeled_exactly_once_however_many_workers_die(
    model: ModuleType, shards: tuple[Shard, ...], seed: int
):
    settings = model.RunSettings(
        workers=7,
        start_seconds=30.0,
        dispatch_seconds=2.0,
        preemptions_per_worker_hour=2.0,
        notice_seconds=15.0,
        replacement_seconds=120.0,
    )
    run = model.simulate(shards, known(model, shards), settings, seed)
    assert run.preemptions > 0
    assert videos_committed(run, shards) == Counter(video.video_id for shard in shards for video in shard.videos)


def test_a_pipeline_that_is_preempted_leaves_no_decoder_behind(
    model: ModuleType, archive: Any, shards: tuple[Shard, ...]
):
    """With one core for all, a decoder that went on for a dead worker would be time that is missing later."""

    def labor(env: Any) -> Any:
        return model.Pipeline(env, archive.work, model.Processor(env, 1), videos_ahead=3)

    settings = model.RunSettings(workers=1, preemptions_per_worker_hour=30.0)
    run = model.simulate(shards, labor, settings, seed=1)
    assert run.preemptions > 0
    assert videos_committed(run, shards) == Counter(video.video_id for shard in shards for video in shard.videos)


def test_a_shard_that_kills_again_goes_one_by_one_and_blames_a_video(model: ModuleType, shards: tuple[Shard, ...]):
    """The log of attempts cannot tell a preemption from a video that kills."""
    settings = model.RunSettings(workers=4, preemptions_per_worker_hour=6.0, replacement_seconds=10.0)
    run = model.simulate(shards, known(model, shards), settings, seed=2)
    assert run.videos_blamed > 0
    assert run.held_seconds > SHARDS * SECONDS_PER_SHARD


def test_the_same_seed_gives_the_same_run_and_another_another(model: ModuleType, shards: tuple[Shard, ...]):
    settings = model.RunSettings(workers=6, preemptions_per_worker_hour=1.0, replacement_seconds=60.0)
    once, again, other = (model.simulate(shards, known(model, shards), settings, seed) for seed in (5, 5, 6))
    assert once == again
    assert once != other


def test_the_same_seed_draws_the_same_archive(model: ModuleType, rates: Any):
    one, two, other = (model.draw_archive(model.ArchiveShape(), rates, 50, seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_the_scheduler_bounds_how_fast_shards_are_handed_out(model: ModuleType, shards: tuple[Shard, ...]):
    settings = model.RunSettings(workers=SHARDS, dispatch_seconds=100.0)
    run = model.simulate(shards, known(model, shards), settings)
    assert run.wall_seconds == pytest.approx(len(shards) * 100.0 + SECONDS_PER_SHARD)


def test_no_shards_are_no_work(model: ModuleType):
    run = model.simulate((), known(model, ()), model.RunSettings(workers=2, launch_seconds=4.0, finish_seconds=1.0))
    assert (run.wall_seconds, run.labeling_seconds, run.committed) == (5.0, 0.0, ())


def video_ref(number: int) -> VideoRef:
    return VideoRef(video_id=f"{number:03}", uri=f"/{number:03}", video_version="1", size_bytes=None)
