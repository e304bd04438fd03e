from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from cdmodel.decode import ClipReader
from cdmodel.encode import encode_mp4
from cdmodel.errors import VideoError
from cdmodel.frame_clock import FrameClock
from cdmodel.packet_timeline import PacketTimeline, Picture
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.testing import encode_flat_video, encode_numbered_clips, encode_sound
from cdmodel.types import ClipSpan

EVERYTHING = ClipGeometry(frames=2, height=8, width=8)
KEYFRAMES = replace(EVERYTHING, keyframes_only=True)
LARGE_BYTES = 150_000
LEVELS = [20 + 7 * number for number in range(30)]
JUMPING_MS = [100 * number + (5 * 3600 * 1000 if number >= 15 else 0) for number in range(30)]
UNEVEN_MS = [0, 700, 720, 740, 760, 1000, 1100, 1800, 2000, 2010, 2020, 2030, 2900]
ODD_VIDEOS = {
    "even": encode_flat_video(LEVELS),
    "two and a bit": encode_flat_video(LEVELS[:24]),
    "two and a half": encode_flat_video(LEVELS[:25]),
    "one frame": encode_flat_video([77]),
    "short": encode_flat_video([50, 90]),
    "late": encode_flat_video(LEVELS, stamps_ms=[7000 + 100 * number for number in range(30)]),
    "uneven": encode_flat_video(LEVELS[:13], stamps_ms=UNEVEN_MS),
    "still": encode_flat_video([60, 180], stamps_ms=[0, 9000]),
    "jumping clock": encode_flat_video(LEVELS, stamps_ms=JUMPING_MS),
    "clock set back": b"".join(encode_flat_video([level] * 20, container="mpegts") for level in (60, 180)),
    "reordered": encode_mp4(np.random.default_rng(5).integers(0, 256, (130, 48, 64, 3), dtype=np.uint8), 10),
}


def _reader(content: bytes, **sampling: float) -> ClipReader:
    return ClipReader(io.BytesIO(content), "test:video", ClipSampling(**sampling))


def _read(reader: ClipReader, geometry: ClipGeometry, **asked: object) -> dict[int, tuple[ClipSpan, np.ndarray]]:
    return {
        index: (span, pixels)
        for batch in reader.read_clips(geometry, **asked)
        for index, span, pixels in zip(batch.clip_indices, batch.spans, batch.pixels_NTCHW, strict=True)
    }


def _levels(pixels_TCHW: np.ndarray) -> list[int]:
    return [round(float(level)) for level in pixels_TCHW.mean(axis=(1, 2, 3))]


def _assert_same_spans(some: dict[int, tuple[ClipSpan, np.ndarray]], other: dict[int, tuple[ClipSpan, np.ndarray]]):
    assert some.keys() == other.keys()
    for index, (span, _) in some.items():
        assert span.start_seconds == other[index][0].start_seconds
        assert span.end_seconds == pytest.approx(other[index][0].end_seconds, abs=1e-6)


def test_each_moment_shows_the_latest_keyframe_at_or_before_it():
    content = encode_flat_video(LEVELS, fps=10, keyframe_interval=8)
    clips = _read(_reader(content), replace(KEYFRAMES, frames=5))
    for index, (_, pixels) in clips.items():
        # Moments 0.1, 0.3, ... of each second; keyframes at 0, 0.8, 1.6 and 2.4 s.
        shown = [8 * int((10 * index + tenth) // 8) for tenth in (1, 3, 5, 7, 9)]
        assert _levels(pixels) == pytest.approx([LEVELS[number] for number in shown], abs=3)


def test_the_pixels_are_those_of_the_same_frames_in_a_full_decode():
    content = ODD_VIDEOS["reordered"]
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(content)) as container:
        plain = [
            (frame.time, reformatter.reformat(frame, 8, 8, format="gbrp", interpolation=Interpolation.BILINEAR))
            for frame in container.decode(video=0)
            if frame.key_frame
        ]
    keyframes = _read(_reader(content), replace(KEYFRAMES, frames=1))
    assert len(plain) >= 3
    assert len(keyframes) == 13
    for index, (_, pixels_TCHW) in keyframes.items():
        [*_, (_, latest)] = [(start, picture) for start, picture in plain if start - plain[0][0] <= index + 0.5]
        np.testing.assert_array_equal(pixels_TCHW[0], latest.to_ndarray().transpose(2, 0, 1))


def test_only_keyframes_are_decoded_and_each_is_converted_once():
    reader = _reader(encode_flat_video(LEVELS, fps=10, keyframe_interval=10))
    assert len(_read(reader, KEYFRAMES)) == 3
    summary = reader.summary()
    assert (summary.frames_decoded, summary.frames_used) == (3, 3)


@pytest.mark.parametrize("name", ODD_VIDEOS)
@pytest.mark.parametrize("stride_seconds", [1.0, 0.4])
def test_clips_and_facts_are_those_of_a_full_pass(name, stride_seconds):
    full, cheap = (_reader(ODD_VIDEOS[name], stride_seconds=stride_seconds) for _ in range(2))
    _assert_same_spans(_read(full, EVERYTHING), _read(cheap, KEYFRAMES))
    expected, found = full.summary(), cheap.summary()
    assert found.facts.duration_seconds == pytest.approx(expected.facts.duration_seconds)
    assert found.facts.fps == pytest.approx(expected.facts.fps)
    assert (found.clips_planned, found.coverage, found.damage) == (
        expected.clips_planned,
        expected.coverage,
        expected.damage,
    )


@pytest.mark.parametrize("name", ODD_VIDEOS)
@pytest.mark.parametrize("sampling", [{}, {"stride_seconds": 0.4}, {"stride_seconds": 3.0}, {"clip_seconds": 4.0}])
def test_clips_are_counted_as_they_are_read_without_decoding_a_frame(name, sampling):
    reader = _reader(ODD_VIDEOS[name], **sampling)
    clips = reader.count_clips()
    summary = reader.summary()
    assert clips == summary.clips_planned == len(_read(reader, EVERYTHING))
    assert summary.frames_used == summary.frames_decoded == 0
    assert summary.packets_read > 0
    assert summary.first_pass_cpu_seconds == summary.cpu_seconds > 0


@pytest.mark.parametrize("content", [b"", b"no video" * 500, encode_sound()], ids=["empty", "text", "sound"])
@pytest.mark.parametrize("ask", [ClipReader.count_clips, lambda reader: _read(reader, KEYFRAMES)])
def test_what_is_no_video_ends_in_the_same_error_however_it_is_read(content, ask):
    with pytest.raises(VideoError) as expected:
        _read(_reader(content), EVERYTHING)
    with pytest.raises(type(expected.value)):
        ask(_reader(content))


def test_a_last_clip_ends_with_its_video_however_few_frames_are_read_of_it():
    content = encode_flat_video(LEVELS[:27])
    for frames in (1, 2, 16):
        span, _ = _read(_reader(content), replace(EVERYTHING, frames=frames))[2]
        assert span.end_seconds == pytest.approx(2.7)


def test_wanted_clips_come_alone_and_decoding_stops_after_them():
    reader = _reader(encode_numbered_clips(8))
    [(index, (_, pixels))] = _read(reader, KEYFRAMES, wanted={2}).items()
    assert index == 2
    assert _levels(pixels) == pytest.approx([70, 70], abs=3)
    assert reader.summary().frames_decoded <= 5


def test_of_a_stream_whose_every_picture_stands_alone_only_those_on_show_are_decoded():
    content = encode_flat_video(LEVELS, keyframe_interval=1)
    full, cheap = _reader(content), _reader(content)
    everything, keyframes = _read(full, EVERYTHING), _read(cheap, KEYFRAMES)
    assert cheap.summary().frames_decoded == full.summary().frames_decoded == 6
    assert all(np.array_equal(keyframes[index][1], everything[index][1]) for index in everything)


def test_a_stream_without_keyframes_is_read_in_full():
    content = _without_keyframe_flags(encode_flat_video(LEVELS, keyframe_interval=10))
    full, cheap = _reader(content), _reader(content)
    everything, keyframes = _read(full, EVERYTHING), _read(cheap, KEYFRAMES)
    assert len(everything) == 3
    _assert_same_spans(everything, keyframes)
    assert all(np.array_equal(keyframes[index][1], everything[index][1]) for index in everything)
    assert cheap.summary().coverage == 1


def _without_keyframe_flags(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(buffer, mode="w", format="nut") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.is_keyframe = False
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_video_that_breaks_off_has_the_same_clips_up_to_its_last_whole_picture(share):
    whole = ODD_VIDEOS["reordered"]
    content = whole[: int(share * len(whole))]
    full, cheap = _reader(content), _reader(content)
    everything, keyframes = _read(full, EVERYTHING), _read(cheap, KEYFRAMES)
    assert 1 < len(everything) < 13
    # The picture that is cut in two counts only where nobody decodes it; it may make half of a clip whole.
    assert list(keyframes)[: len(everything)] == list(everything)
    assert len(keyframes) - len(everything) in (0, 1)
    assert cheap.summary().clips_planned == full.summary().clips_planned
    assert cheap.summary().damage is not None
    assert cheap.summary().coverage == pytest.approx(full.summary().coverage, abs=0.02)


def test_a_keyframe_on_show_for_long_holds_one_clip_at_a_time():
    stamps_ms = [50_000 * number for number in range(20)]
    reader = _reader(encode_flat_video([100] * 20, stamps_ms=stamps_ms, keyframe_interval=20))
    sizes = [len(batch.spans) for batch in reader.read_clips(KEYFRAMES, clips_per_batch=100)]
    # The last picture stays for a tenth of a second: its clip is too short to count.
    assert sum(sizes) == 950
    assert max(sizes) == 100
    assert reader.summary().frames_used == 1


def test_packets_in_the_order_of_decoding_are_timed_in_the_order_of_showing():
    stamps = _time_packets([(2, 0), (5, 1), (3, 2), (4, 3), (8, 4), (6, 5), (7, 6)])
    assert [stamp.start_seconds for stamp in stamps] == [0, 3, 1, 2, 6, 4, 5]


def test_packets_without_a_time_of_decoding_are_put_in_order_too():
    stamps = _time_packets([(2, None), (5, None), (3, None), (4, None)])
    assert [stamp.start_seconds for stamp in stamps] == [0, 3, 1, 2]


def test_packets_without_any_time_follow_one_another():
    assert [stamp.start_seconds for stamp in _time_packets([(None, None)] * 3)] == [0, 1, 2]


def _time_packets(times: list[tuple[int | None, int | None]]) -> list[Picture]:
    timeline = PacketTimeline(FrameClock(time_base_seconds=1.0, nominal_frame_seconds=1.0))
    pictures: list[Picture] = []
    for pts, dts in times:
        packet = av.Packet(b"picture")
        packet.pts, packet.dts, packet.is_keyframe = pts, dts, not pictures
        pictures.append(Picture(packet.is_keyframe))
        timeline.push(packet, pictures[-1])
    timeline.finish()
    assert timeline.frames == len(times)
    return pictures


def test_real_videos_have_the_same_clips_in_both_ways_of_reading(real_videos: Path):
    files = sorted(path for path in (real_videos / "nasty").rglob("*") if path.is_file())
    compared = 0
    for path in files:
        if path.stat().st_size > LARGE_BYTES:
            continue
        with path.open("rb") as file:
            full, cheap = (ClipReader(file, path.name, ClipSampling()) for _ in range(2))
            try:
                everything = _read(full, EVERYTHING)
            except VideoError:
                continue
            if full.summary().damage is None:
                _assert_same_spans(everything, _read(cheap, KEYFRAMES))
                assert cheap.summary().coverage == 1, path
                compared += 1
    assert compared > 50
