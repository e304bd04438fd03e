from __future__ import annotations

import io
import tracemalloc

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from cdmodel.decode import ClipReader, DecodeSummary
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.errors import DecodeTimeout, NoVideoStream, VideoError, VideoStorageError, VideoTooLarge, VideoUnreadable
from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times
from cdmodel.testing import encode_flat_video, encode_numbered_clips, encode_sound
from cdmodel.types import ClipSpan

FOUR_FRAMES = ClipGeometry(frames=4, height=8, width=8)
SLOW_FILES = ("mp4__long_1080p_lowbitrate.mp4", "mp4__long_1080p_videoonly_lowbitrate.mp4", "mp4__8k24fps_300ms.mp4")
SMALL = (64, 48)


def _reader(content: bytes, *, limits: DecodeLimits | None = None, **sampling: float) -> ClipReader:
    return ClipReader(io.BytesIO(content), "test:video", ClipSampling(**sampling), limits)


def _clips(reader: ClipReader, geometry: ClipGeometry = FOUR_FRAMES, **asked: object) -> dict[int, np.ndarray]:
    return {
        index: pixels
        for batch in reader.read_clips(geometry, **asked)
        for index, pixels in zip(batch.clip_indices, batch.pixels_NTCHW, strict=True)
    }


def _levels(pixels_TCHW: np.ndarray) -> list[int]:
    return [round(float(level)) for level in pixels_TCHW.mean(axis=(1, 2, 3))]


def _noise(frames: int, *, fps: int = 10, size: tuple[int, int] = SMALL) -> bytes:
    random = np.random.default_rng(5)
    return encode_mp4(random.integers(0, 256, size=(frames, size[1], size[0], 3), dtype=np.uint8), fps)


def _drain(content: bytes, limits: DecodeLimits | None = None) -> DecodeSummary:
    reader = _reader(content, limits=limits)
    for _ in reader.read_clips(FOUR_FRAMES):
        pass
    return reader.summary()


def test_frames_are_chosen_by_the_time_they_are_shown_at_not_by_their_number():
    stamps_ms = [0, 700, 720, 740, 760, 1000, 1100, 1800, 2000, 2010, 2020, 2030, 2900]
    levels = [20 + 15 * number for number in range(len(stamps_ms))]
    clips = _clips(_reader(encode_flat_video(levels, stamps_ms=stamps_ms)))
    for index in range(3):
        times = frame_times(ClipSpan(start_seconds=index, end_seconds=index + 1), FOUR_FRAMES.frames)
        shown = [max(n for n, stamp_ms in enumerate(stamps_ms) if stamp_ms / 1000 <= time) for time in times]
        assert _levels(clips[index]) == pytest.approx([levels[number] for number in shown], abs=3)


@pytest.mark.parametrize("container", ["matroska", "mpegts"])
def test_a_video_that_starts_late_starts_at_zero(container):
    levels = [40] * 10 + [120] * 10 + [200] * 10
    late_ms = [7000 + 100 * number for number in range(30)]
    prompt = _clips(_reader(encode_flat_video(levels, container=container)))
    late = _clips(_reader(encode_flat_video(levels, container=container, stamps_ms=late_ms)))
    assert [_levels(clip)[0] for clip in late.values()] == pytest.approx([40, 120, 200], abs=3)
    assert late.keys() == prompt.keys() == {0, 1, 2}
    assert all(np.array_equal(late[index], prompt[index]) for index in prompt)


def test_pixels_are_those_of_a_plain_decode_from_start_to_end():
    content = _noise(30)
    geometry = ClipGeometry(frames=4, height=12, width=20)
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(content)) as container:
        plain = [
            reformatter.reformat(frame, 20, 12, format="gbrp", interpolation=Interpolation.BILINEAR).to_ndarray()
            for frame in container.decode(video=0)
        ]
    clips = _clips(_reader(content), geometry)
    assert len(clips) == 3
    for index, pixels_TCHW in clips.items():
        # Ten frames a second: 0.125 s falls on frame 1, and so on.
        expected_THWC = np.stack([plain[10 * index + number] for number in (1, 3, 6, 8)])
        np.testing.assert_array_equal(pixels_TCHW, expected_THWC.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("wanted", [{0}, {2}, {1, 4}, {0, 1, 2, 3, 4, 5}])
@pytest.mark.parametrize("stride_seconds", [1.0, 0.5])
def test_wanted_clips_are_bit_identical_to_those_of_a_full_pass(wanted, stride_seconds):
    reader = _reader(_noise(60), stride_seconds=stride_seconds)
    everything = _clips(reader)
    chosen = _clips(reader, wanted=wanted)
    assert chosen.keys() == wanted
    assert all(np.array_equal(chosen[index], everything[index]) for index in wanted)


def test_decoding_stops_after_the_last_wanted_clip():
    reader = _reader(_noise(100))
    _clips(reader, wanted={0})
    assert reader.summary().frames_decoded < 30


def test_one_pass_for_two_views_reads_each_packet_once_and_decodes_the_frames_of_both():
    content = _noise(100)
    geometries = (FOUR_FRAMES, ClipGeometry(frames=9, height=12, width=20))
    apart, together = _reader(content), _reader(content)
    separate = [_clips(apart, geometry) for geometry in geometries]
    views = list(together.read_views(geometries, clips_per_batch=4))
    for number, clips in enumerate(separate):
        pixels = np.concatenate([view[number].pixels_NTCHW for view in views])
        np.testing.assert_array_equal(pixels, np.stack(list(clips.values())))
    one, two = together.summary(), apart.summary()
    assert (2 * one.packets_read, one.frames_used) == (two.packets_read, two.frames_used)
    assert one.frames_decoded < two.frames_decoded


def test_keyframes_are_no_view_beside_others():
    keyframes = ClipGeometry(frames=2, height=8, width=8, keyframes_only=True)
    with pytest.raises(ValueError, match="pass of their own"):
        next(_reader(_noise(10)).read_views((FOUR_FRAMES, keyframes)))


def test_no_clip_is_wanted_no_clip_comes():
    assert _clips(_reader(_noise(10)), wanted=()) == {}


def test_a_clip_beyond_the_end_is_not_made_up():
    assert list(_clips(_reader(_noise(20)), wanted={1, 50})) == [1]


def test_batches_hold_as_many_clips_as_asked():
    sizes = [len(batch.spans) for batch in _reader(_noise(70)).read_clips(FOUR_FRAMES, clips_per_batch=3)]
    assert sizes == [3, 3, 1]


def test_a_video_shorter_than_a_clip_is_one_clip_whose_last_frame_is_repeated():
    reader = _reader(encode_flat_video([50, 90], fps=10))
    [batch] = reader.read_clips(ClipGeometry(frames=8, height=8, width=8))
    assert _levels(batch.pixels_NTCHW[0]) == pytest.approx([50] + [90] * 7, abs=3)
    assert batch.spans[0].end_seconds == pytest.approx(0.2)
    assert reader.summary().clips_planned == 1


def test_a_single_frame_is_a_clip():
    assert list(_clips(_reader(encode_flat_video([77])))) == [0]


def test_overlapping_clips_share_the_frames_they_share():
    reader = _reader(encode_numbered_clips(4), clip_seconds=2.0, stride_seconds=1.0)
    levels = [_levels(clip) for clip in _clips(reader).values()]
    assert levels == [
        pytest.approx(row, abs=3) for row in ([30, 30, 50, 50], [50, 50, 70, 70], [70, 70, 90, 90], [90, 90, 90, 90])
    ]


def test_only_the_clips_being_filled_are_held():
    content = encode_flat_video([number % 200 + 20 for number in range(1600)], fps=8, size=(32, 32))
    geometry = ClipGeometry(frames=8, height=64, width=64)
    clip_bytes = 8 * 3 * 64 * 64
    reader = _reader(content)
    clips = 0
    tracemalloc.start()
    try:
        for batch in reader.read_clips(geometry, clips_per_batch=4):
            clips += len(batch.spans)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert clips == 200
    # A batch as clips, the same stacked, the batch before it, and what is being filled.
    assert peak_bytes < 20 * clip_bytes


def test_frames_decoded_count_every_pass_and_frames_used_only_what_a_model_saw():
    reader = _reader(encode_flat_video([100] * 40, fps=10))
    _clips(reader, ClipGeometry(frames=2, height=8, width=8))
    first = reader.summary()
    assert 8 <= first.frames_decoded <= 40
    assert (first.frames_used, first.packets_read) == (8, 40)
    _clips(reader, ClipGeometry(frames=2, height=8, width=8))
    second = reader.summary()
    assert (second.frames_decoded, second.frames_used) == (2 * first.frames_decoded, 16)
    assert second.first_pass_cpu_seconds == first.first_pass_cpu_seconds < second.cpu_seconds


def test_a_whole_video_is_described_as_it_was_observed():
    summary = _drain(encode_flat_video([100] * 25, fps=10))
    assert summary.facts.duration_seconds == pytest.approx(2.5)
    assert summary.facts.fps == pytest.approx(10)
    assert (summary.facts.width, summary.facts.height, summary.facts.codec) == (64, 48, "h264")
    assert (summary.coverage, summary.damage, summary.clips_planned) == (1.0, None, 3)


def test_a_summary_before_the_first_pass_says_that_nothing_is_known():
    summary = _reader(b"").summary()
    assert (summary.coverage, summary.clips_planned, summary.facts.duration_seconds) == (0.0, 0, None)


def test_a_video_that_breaks_off_is_read_as_far_as_it_goes():
    whole = _noise(100)
    reader = _reader(whole[: len(whole) // 2])
    clips = _clips(reader)
    summary = reader.summary()
    assert 3 <= len(clips) <= 7
    assert 0.3 < summary.coverage < 0.7
    assert summary.damage is not None
    assert summary.damage.error_kind == "decode_error"
    assert summary.clips_planned == 10


def test_bytes_damaged_in_the_middle_leave_the_rest():
    content = bytearray(_noise(100))
    middle = len(content) // 2
    content[middle : middle + 4000] = b"\0" * 4000
    summary = _drain(bytes(content))
    assert summary.damage is not None
    assert 0 < summary.coverage < 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", VideoUnreadable),
        (b"this is no video" * 200, VideoUnreadable),
        (bytes(4096), VideoUnreadable),
        (encode_sound(), NoVideoStream),
    ],
    ids=["empty", "text", "zeros", "sound only"],
)
def test_what_is_no_video_ends_in_its_own_error(content, error):
    with pytest.raises(error, match="test:video"):
        _drain(content)


class _FailingFile(io.BytesIO):
    """A store that answers a few times and then no more."""

    def __init__(self, content: bytes, reads: int) -> None:
        super().__init__(content)
        self._reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise VideoStorageError("test:video", "the store is gone")
        return super().read(size)


@pytest.mark.parametrize("reads", [0, 1, 2, 4])
def test_an_error_of_the_store_is_not_taken_for_damage_of_the_video(reads):
    content = _noise(300, size=(160, 120))
    reader = ClipReader(_FailingFile(content, reads), "test:video", ClipSampling())
    with pytest.raises(VideoStorageError, match="the store is gone"):
        _clips(reader)


def test_a_picture_beyond_the_limit_is_refused():
    with pytest.raises(VideoTooLarge, match="max_frame_pixels"):
        _drain(_noise(3), DecodeLimits(max_frame_pixels=64 * 48 - 1))
    _drain(_noise(3), DecodeLimits(max_frame_pixels=64 * 48))


def test_decoding_beyond_the_deadline_is_given_up():
    with pytest.raises(DecodeTimeout, match="deadline_seconds"):
        _drain(_noise(30), DecodeLimits(deadline_seconds=1e-9))


def test_a_clock_that_jumps_by_hours_makes_no_clips_of_nothing():
    stamps_ms = [100 * number + (5 * 3600 * 1000 if number >= 15 else 0) for number in range(30)]
    clips = _clips(_reader(encode_flat_video([60] * 15 + [180] * 15, stamps_ms=stamps_ms)))
    assert list(clips) == [0, 1, 2]
    assert _levels(clips[2]) == pytest.approx([180] * 4, abs=3)


def test_a_clock_that_is_set_back_goes_on_where_it_was():
    first, second = (encode_flat_video([level] * 20, container="mpegts") for level in (60, 180))
    clips = _clips(_reader(first + second))
    assert list(clips) == [0, 1, 2, 3]
    assert _levels(clips[3]) == pytest.approx([180] * 4, abs=3)


def test_a_still_picture_of_some_seconds_is_kept():
    clips = _clips(_reader(encode_flat_video([60, 180], stamps_ms=[0, 9000])))
    assert len(clips) == 9
    assert _levels(clips[8]) == pytest.approx([60] * 4, abs=3)


@pytest.mark.parametrize(
    "limit",
    [
        {"deadline_seconds": 0},
        {"deadline_seconds": float("nan")},
        {"stall_seconds": 0},
        {"max_frame_pixels": 0},
        {"max_memory_bytes": 2**27},
    ],
)
def test_a_limit_of_nothing_is_refused_by_name(limit):
    with pytest.raises(ValueError, match=next(iter(limit))):
        DecodeLimits(**limit)


def test_a_recording_on_its_side_is_turned_upright(real_videos):
    geometry = ClipGeometry(frames=2, height=40, width=24)
    shots = {}
    for turned in ("0", "90"):
        with (real_videos / f"nasty/decord/tests__test_data__video_{turned}.mov").open("rb") as file:
            shots[turned] = _clips(ClipReader(file, turned, ClipSampling()), geometry)[0]
            file.seek(0)
            with av.open(file) as container:
                rotation = next(container.decode(video=0)).rotation
        assert bool(rotation % 180) == (turned == "90")
    assert shots["90"].shape == shots["0"].shape == (2, 3, 40, 24)
    difference = np.abs(shots["90"].astype(int) - shots["0"]).mean()
    assert difference < np.abs(shots["90"][..., ::-1, ::-1].astype(int) - shots["0"]).mean()


def test_every_odd_file_is_labeled_or_ends_in_a_video_error_the_same_way_twice(real_videos):
    files = sorted(path for path in (real_videos / "nasty").rglob("*") if path.is_file())
    assert len(files) > 100
    readable = 0
    for path in files:
        if path.name in SLOW_FILES:
            continue
        first, second = (_outcome(path) for _ in range(2))
        assert first == second, path
        readable += isinstance(first, tuple)
    assert readable > 80


def _outcome(path) -> tuple[tuple[int, ...], bytes] | str:
    """Return what came of the first two clips, or the kind of the error."""
    with path.open("rb") as file:
        reader = ClipReader(file, str(path), ClipSampling())
        try:
            clips = _clips(reader, wanted={0, 1})
        except VideoError as error:
            return error.kind
    assert clips, path
    assert 0 <= reader.summary().coverage <= 1
    return tuple(clips), b"".join(pixels.tobytes() for pixels in clips.values())
