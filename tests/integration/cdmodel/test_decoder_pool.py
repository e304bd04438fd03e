"""Decoders in processes of their own: the same clips as in this one, and what becomes of videos that attack them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from hostile_videos import SlowFile, open_file, open_hostile, open_memorable, strike_at_once

from cdmodel.clips import ClipSource
from cdmodel.decode import ClipReader, DecodeSummary
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool, IsolatedClips
from cdmodel.encode import encode_mp4
from cdmodel.errors import DecoderCrashed, DecodeTimeout, VideoError, VideoStorageError, VideoTooLarge
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.testing import encode_flat_video, encode_numbered_clips, encode_sound

SMALL = ClipGeometry(frames=4, height=12, width=20)
LARGE = ClipGeometry(frames=8, height=48, width=64)
LIMITS = DecodeLimits(stall_seconds=2.0, max_memory_bytes=2**28)
CLIPS = 7


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("videos") / "good.mkv"
    path.write_bytes(encode_numbered_clips(CLIPS))
    return str(path)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten clips, more than its file gives in some reads."""
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    path.write_bytes(encode_mp4(random.integers(0, 256, size=(100, 64, 96, 3), dtype=np.uint8), 10))
    return str(path)


@dataclass(frozen=True)
class OwnPool:
    """A pool of the test's own, and the decoders it has started."""

    pool: DecoderPool
    others: frozenset[int]

    def decoders(self) -> list[psutil.Process]:
        return [child for child in _decoders() if child.pid not in self.others]


@pytest.fixture
def own() -> Iterator[OwnPool]:
    own = OwnPool(DecoderPool(), frozenset(child.pid for child in _decoders()))
    yield own
    own.pool.close()
    assert own.decoders() == []


def _read(
    pool: DecoderPool, opener: Callable[[], object], limits: DecodeLimits = LIMITS
) -> AbstractContextManager[IsolatedClips]:
    return pool.read(opener, "test:video", ClipSampling(), limits)  # type: ignore[arg-type]


def _drain(clips: ClipSource) -> list[int]:
    return [index for batch in clips.read_clips(SMALL) for index in batch.clip_indices]


def _use_fully(clips: ClipSource) -> tuple[list[object], list[np.ndarray]]:
    """Everything a source says, but for the time it took; errors as facts."""
    facts: list[object] = []
    pixels: list[np.ndarray] = []
    for geometry, wanted, clips_per_batch in ((SMALL, None, 2), (LARGE, (1, 3), 16), (SMALL, (), 16)):
        try:
            for batch in clips.read_clips(geometry, wanted, clips_per_batch):
                facts.append((batch.clip_indices, batch.spans, _timeless(clips.summary())))
                pixels.append(batch.pixels_NTCHW)
        except VideoError as error:
            facts.append((type(error), error.subject, error.reason))
        facts.append(_timeless(clips.summary()))
    try:
        facts.append(clips.count_clips())
    except VideoError as error:
        facts.append((type(error), error.subject, error.reason))
    return [*facts, _timeless(clips.summary())], pixels


def _timeless(summary: DecodeSummary) -> dict[str, object]:
    measured = {"cpu_seconds", "first_pass_cpu_seconds", "bytes_read", "read_requests"}
    return {name: getattr(summary, name) for name in DecodeSummary.__slots__ if name not in measured}


def _assert_same_as_in_process(pool: DecoderPool, path: Path, limits: DecodeLimits | None = None) -> None:
    limits = limits or DecodeLimits()
    with path.open("rb") as file:
        facts, pixels = _use_fully(ClipReader(file, "test:video", ClipSampling(), limits))
    with _read(pool, partial(open_file, str(path)), limits) as clips:
        isolated_facts, isolated_pixels = _use_fully(clips)
        assert clips.summary().cpu_seconds >= clips.summary().first_pass_cpu_seconds >= 0
    assert isolated_facts == facts
    for ours, theirs in zip(isolated_pixels, pixels, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clips_errors_and_summary_are_those_of_this_process(pool: DecoderPool, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    noise = encode_mp4(random.integers(0, 256, size=(95, 48, 64, 3), dtype=np.uint8), 10)
    contents = {
        "noise.mp4": noise,
        "numbers.mkv": encode_numbered_clips(5),
        "transport.ts": encode_flat_video([40] * 20 + [90] * 25, container="mpegts"),
        "cut.mp4": noise[: len(noise) // 2],
        "sound.wav": encode_sound(),
        "text.mp4": b"no video" * 50,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        _assert_same_as_in_process(pool, tmp_path / name)
    _assert_same_as_in_process(pool, tmp_path / "noise.mp4", DecodeLimits(max_frame_pixels=100))


def test_real_videos_give_the_same_in_both(pool: DecoderPool, real_videos: Path) -> None:
    paths = sorted(path for path in real_videos.rglob("*") if path.is_file())[::10]
    for path in paths:
        if "long_1080p" not in path.name:
            _assert_same_as_in_process(pool, path)


def test_an_error_of_the_file_is_raised_as_it_is(pool: DecoderPool, long: str) -> None:
    with pytest.raises(VideoStorageError, match="the store is gone"), _read(pool, partial(strike_at_once, "store")):
        pass
    with _read(pool, partial(open_hostile, long, "store", 5)) as clips:
        with pytest.raises(VideoStorageError, match="the store is gone"):
            _drain(clips)
        assert 0 < clips.summary().frames_decoded < 100


def test_an_error_that_is_no_videos_fault_is_raised_with_the_place_it_came_from(pool: DecoderPool, good: str) -> None:
    with pytest.raises(ZeroDivisionError) as raised, _read(pool, partial(strike_at_once, "bug")):
        pass
    assert "hostile_videos.py" in "".join(raised.value.__notes__)
    with pytest.raises(ZeroDivisionError), _read(pool, partial(open_hostile, good, "bug")) as clips:
        _drain(clips)
    with _read(pool, partial(open_file, good)) as clips:
        assert _drain(clips) == list(range(CLIPS))


ATTACKS = {
    "sleep": (DecodeTimeout, "no progress for 2 s"),
    "native hang": (DecodeTimeout, "no progress for 2 s"),
    "segfault": (DecoderCrashed, "the decoder died of signal SIGSEGV"),
    "abort": (DecoderCrashed, "the decoder died of signal SIGABRT"),
    "exit": (DecoderCrashed, "the decoder ended by itself with code 3"),
    "grow": (VideoTooLarge, "decode.max_memory_bytes = 268435456"),
}


@pytest.mark.parametrize("reads", [None, 1])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_ends_its_video_in_time_and_no_other(
    pool: DecoderPool, good: str, attack: str, reads: int | None
) -> None:
    kind, message = ATTACKS[attack]
    opener = partial(strike_at_once, attack) if reads is None else partial(open_hostile, good, attack, reads)
    pool.prepare()
    started = time.monotonic()
    with pytest.raises(kind, match=message) as raised, _read(pool, opener) as clips:
        _drain(clips)
    assert raised.value.subject == "test:video"
    assert time.monotonic() - started < 20
    with _read(pool, partial(open_file, good)) as clips:
        assert _drain(clips) == list(range(CLIPS))


def test_what_a_dead_decoder_had_done_is_still_counted(pool: DecoderPool, long: str) -> None:
    with _read(pool, partial(open_hostile, long, "abort", 8)) as clips:
        with pytest.raises(DecoderCrashed):
            list(clips.read_clips(SMALL, clips_per_batch=1))
        summary = clips.summary()
        assert summary.facts.codec == "h264"
        assert 0 < summary.frames_decoded < 100
        assert summary.cpu_seconds > 0
        with pytest.raises(DecoderCrashed):
            clips.count_clips()


def test_several_views_of_one_pass_cross_side_by_side(pool: DecoderPool, good: str) -> None:
    geometries = (SMALL, ClipGeometry(frames=5, height=20, width=12))
    with open_file(good) as file:
        expected = list(ClipReader(file, good, ClipSampling()).read_views(geometries, clips_per_batch=2))
    with _read(pool, partial(open_file, good), DecodeLimits()) as clips:
        found = list(clips.read_views(geometries, clips_per_batch=2))
    assert len(found) == len(expected) > 0
    for some, others in zip(found, expected, strict=True):
        assert [batch.spans for batch in some] == [batch.spans for batch in others]
        for one, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(one.pixels_NTCHW, other.pixels_NTCHW)


def test_the_deadline_counts_time_spent_decoding_and_not_that_of_the_caller(
    pool: DecoderPool, good: str, long: str
) -> None:
    limits = DecodeLimits(deadline_seconds=0.3)
    with _read(pool, partial(open_file, good), limits) as clips:
        for _ in clips.read_clips(SMALL, clips_per_batch=1):
            time.sleep(0.1)
    slow = partial(SlowFile, long)
    with _read(pool, slow, limits) as clips, pytest.raises(DecodeTimeout, match=r"decode\.deadline_seconds = 0\.3"):
        clips.count_clips()


def test_a_deadline_that_the_decoder_itself_does_not_look_at_is_kept_all_the_same(pool: DecoderPool, good: str) -> None:
    limits = DecodeLimits(deadline_seconds=0.5)
    hanging = partial(open_hostile, good, "native hang", 1)
    with _read(pool, hanging, limits) as clips, pytest.raises(DecodeTimeout, match=r"decode\.deadline_seconds = 0\.5"):
        clips.count_clips()


def test_a_slow_video_that_moves_is_no_stalled_one(pool: DecoderPool, good: str) -> None:
    with _read(pool, partial(SlowFile, good), DecodeLimits(stall_seconds=0.4)) as clips:
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            assert clips.count_clips() == CLIPS


def test_a_pass_may_be_left_and_another_begun(pool: DecoderPool, good: str) -> None:
    with _read(pool, partial(open_file, good)) as clips:
        first = clips.read_clips(SMALL, clips_per_batch=1)
        assert next(first).clip_indices == (0,)
        assert _drain(clips) == list(range(CLIPS))
        with pytest.raises(RuntimeError, match="another pass"):
            next(first)
        next(clips.read_clips(SMALL, clips_per_batch=1))
        assert clips.count_clips() == CLIPS
        next(clips.read_clips(SMALL, clips_per_batch=1))
    with _read(pool, partial(open_file, good)) as clips:
        assert _drain(clips) == list(range(CLIPS))


def test_a_video_that_was_closed_gives_no_more_clips_and_does_not_disturb_the_next(
    pool: DecoderPool, good: str
) -> None:
    with _read(pool, partial(open_file, good)) as closed:
        left = closed.read_clips(SMALL, clips_per_batch=1)
        next(left)
    with _read(pool, partial(open_file, good)) as clips:
        with pytest.raises(ValueError, match="closed"):
            closed.count_clips()
        with pytest.raises(RuntimeError, match="closed"):
            next(left)
        assert _drain(clips) == list(range(CLIPS))
    assert closed.summary().frames_decoded > 0


def test_an_error_of_the_caller_ends_the_decoder_at_once_and_leaves_the_pool_usable(own: OwnPool, good: str) -> None:
    used: list[IsolatedClips] = []

    def fail_over_clips() -> None:
        with _read(own.pool, partial(open_hostile, good, "sleep", 1)) as clips:
            used.append(clips)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_over_clips()
    assert own.decoders() == []
    with pytest.raises(ValueError, match="closed"):
        used[0].count_clips()
    with _read(own.pool, partial(open_file, good)) as clips:
        assert _drain(clips) == list(range(CLIPS))


def test_pixels_stay_what_they_are_for_as_long_as_they_are_kept(pool: DecoderPool, good: str) -> None:
    with _read(pool, partial(open_file, good)) as clips:
        kept = [batch.pixels_NTCHW[:, 1:] for batch in clips.read_clips(LARGE, clips_per_batch=1)]
        copies = [pixels.copy() for pixels in kept]
        for _ in range(3):
            assert len(list(clips.read_clips(LARGE, clips_per_batch=1))) == CLIPS
    with _read(pool, partial(open_file, good)) as clips:
        _drain(clips)
    for pixels, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(pixels, copy)


def test_two_videos_are_read_at_once_by_two_decoders(pool: DecoderPool, good: str) -> None:
    with _read(pool, partial(open_file, good)) as one, _read(pool, partial(open_file, good)) as other:
        pairs = zip(one.read_clips(SMALL, clips_per_batch=1), other.read_clips(SMALL, clips_per_batch=1), strict=True)
        assert all(np.array_equal(a.pixels_NTCHW, b.pixels_NTCHW) for a, b in pairs)


def test_a_decoder_that_died_idle_is_nobodys_fault(own: OwnPool, good: str) -> None:
    for _ in range(2):
        with _read(own.pool, partial(open_file, good)) as clips:
            assert _drain(clips) == list(range(CLIPS))
        [decoder] = own.decoders()
        decoder.send_signal(signal.SIGKILL)
    with _read(own.pool, partial(open_file, good)) as clips:
        assert clips.count_clips() == CLIPS


def test_the_decoder_loads_neither_the_models_nor_the_tables(pool: DecoderPool, good: str) -> None:
    with _read(pool, partial(open_hostile, good, "modules")) as clips, pytest.raises(VideoStorageError) as raised:
        _drain(clips)
    assert raised.value.reason == ""


def test_a_decoder_is_kept_and_leaks_nothing(own: OwnPool, good: str) -> None:
    for number in range(30):
        with _read(own.pool, partial(open_file, good)) as clips:
            _drain(clips)
            if number % 3 == 0:
                next(clips.read_clips(LARGE, clips_per_batch=1))
        if number == 2:
            [decoder] = own.decoders()
            gc.collect()
            before = (_descriptors(), decoder.num_fds(), _shared_memory())
    gc.collect()
    assert [decoder.pid] == [child.pid for child in own.decoders()]
    assert (_descriptors(), decoder.num_fds(), _shared_memory()) == before


def test_decoders_that_are_killed_leak_nothing_either(own: OwnPool, good: str) -> None:
    gc.collect()
    before = (_descriptors(), _shared_memory())
    for _ in range(4):
        with pytest.raises(DecoderCrashed), _read(own.pool, partial(open_hostile, good, "exit")) as clips:
            _drain(clips)
    with _read(own.pool, partial(open_file, good)) as clips:
        _drain(clips)
    del clips
    own.pool.close()
    gc.collect()
    assert (_descriptors(), _shared_memory()) == before


def test_a_decoder_that_has_grown_is_replaced_before_the_next_video(own: OwnPool, good: str) -> None:
    seen = []
    for opener in (open_file, open_memorable, open_file):
        with _read(own.pool, partial(opener, good)) as clips:
            _drain(clips)
            seen += [child.pid for child in own.decoders()]
    assert len(seen) == 3
    assert seen[0] == seen[1] != seen[2]


def test_memory_that_one_large_batch_took_is_given_back(own: OwnPool, good: str) -> None:
    huge = ClipGeometry(frames=8, height=1200, width=1600)
    with _read(own.pool, partial(open_file, good), DecodeLimits()) as clips:
        assert len([batch.clip_indices for batch in clips.read_clips(huge)]) == 1
        assert _mapped_bytes() > 2**28
    assert _mapped_bytes() < 2**28


WORKER = """
import sys, time
from functools import partial
from hostile_videos import open_hostile
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool
from cdmodel.sampling import ClipGeometry, ClipSampling
pool = DecoderPool()
with pool.read(partial(open_hostile, sys.argv[1], sys.argv[2]), "v", ClipSampling(), DecodeLimits()) as clips:
    print("reading", flush=True)
    list(clips.read_clips(ClipGeometry(frames=4, height=8, width=8)))
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("attack", ["native hang", "sleep"])
def test_no_decoder_outlives_its_worker(good: str, death: signal.Signals, attack: str) -> None:
    path = os.pathsep.join(sys.path)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, good, attack],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"reading\n"
        [decoder] = psutil.Process(worker.pid).children()
        worker.send_signal(death)
    decoder.wait(timeout=10)
    assert not decoder.is_running()


def _decoders() -> list[psutil.Process]:
    def is_decoder(process: psutil.Process) -> bool:
        return process.status() != psutil.STATUS_ZOMBIE and "cdmodel.decoder_child" in process.cmdline()

    return [child for child in psutil.Process().children() if is_decoder(child)]


def _shared_memory() -> list[Path]:
    # Locks are those of other programs: a Dask cluster that starts or ends beside this test has some.
    return sorted(path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem."))


def _mapped_bytes() -> int:
    maps = psutil.Process().memory_maps(grouped=False)
    return sum(mapped.size for mapped in maps if "decoded-clips" in mapped.path)


def _descriptors() -> int:
    return psutil.Process().num_fds()


def _begin(pool: DecoderPool, path: Path, *geometries: ClipGeometry) -> IsolatedClips:
    opener = partial(open_file, str(path))
    return pool.begin(opener, "test:video", ClipSampling(), DecodeLimits(), geometries)


def test_a_pass_begun_unasked_gives_what_an_asked_one_gives(pool: DecoderPool, tmp_path: Path) -> None:
    path = tmp_path / "numbers.mkv"
    path.write_bytes(encode_numbered_clips(CLIPS))
    for asked in ((SMALL,), (SMALL, LARGE), (LARGE,)):
        with _read(pool, partial(open_file, str(path))) as clips:
            expected = [[batch.pixels_NTCHW.copy() for batch in views] for views in clips.read_views(asked)]
            spent = _timeless(clips.summary())
        begun = _begin(pool, path, *asked)
        with pool.reading(begun):
            found = [[batch.pixels_NTCHW.copy() for batch in views] for views in begun.read_views(asked)]
            assert _timeless(begun.summary()) == spent
        for views, others in zip(found, expected, strict=True):
            for one, other in zip(views, others, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_pass_begun_unasked_that_nobody_wants_gives_way(pool: DecoderPool, tmp_path: Path) -> None:
    path = tmp_path / "numbers.mkv"
    path.write_bytes(encode_numbered_clips(CLIPS))
    begun = _begin(pool, path, LARGE)
    with pool.reading(begun):
        assert begun.count_clips() == CLIPS
        assert _drain(begun) == list(range(CLIPS))
    begun = _begin(pool, path, LARGE)
    with pool.reading(begun):
        assert _drain(begun) == list(range(CLIPS))
    with pool.reading(_begin(pool, path, SMALL)):
        pass
    with _read(pool, partial(open_file, str(path))) as clips:
        assert _drain(clips) == list(range(CLIPS))


def test_a_video_that_cannot_be_read_says_so_only_when_it_is_asked_for(own: OwnPool, tmp_path: Path) -> None:
    broken, good = tmp_path / "broken.mp4", tmp_path / "good.mkv"
    broken.write_bytes(b"no video" * 100)
    good.write_bytes(encode_numbered_clips(CLIPS))
    first, second = _begin(own.pool, broken, SMALL), _begin(own.pool, good, SMALL)
    with pytest.raises(VideoError), own.pool.reading(first):
        _drain(first)
    with own.pool.reading(second):
        assert _drain(second) == list(range(CLIPS))
    assert len(own.decoders()) == 2


def test_a_decoder_that_dies_ahead_costs_its_own_video(own: OwnPool, good: str, tmp_path: Path) -> None:
    doomed = own.pool.begin(partial(strike_at_once, "segfault"), "test:video", ClipSampling(), LIMITS, (SMALL,))  # type: ignore[arg-type]
    begun = _begin(own.pool, Path(good), SMALL)
    with own.pool.reading(begun):
        assert _drain(begun) == list(range(CLIPS))
    with pytest.raises(DecoderCrashed), own.pool.reading(doomed):
        _drain(doomed)
