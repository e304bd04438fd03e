from __future__ import annotations

import io

import numpy as np
import pytest

from cdmodel.compose import SEARCHED_SECONDS, draw_passage, read_frames
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.errors import NoVideoStream, VideoTooLarge, VideoUnreadable
from cdmodel.testing import encode_flat_video, encode_sound


def _read(content: bytes, *, height: int = 48, width: int = 64, fps: int = 10, limits: DecodeLimits | None = None):
    return list(
        read_frames(
            io.BytesIO(content),
            "video",
            height=height,
            width=width,
            frames_per_second=fps,
            limits=limits or DecodeLimits(),
        )
    )


def _levels(frames: list[np.ndarray]) -> list[int]:
    return [round(float(frame.mean()) / 10) * 10 for frame in frames]


def test_the_frames_have_the_wanted_size_and_type():
    frames = _read(encode_flat_video([50] * 10), height=32, width=48)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((32, 48, 3), "uint8")}


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (10, [40, 60, 80, 100]),
        (20, [40, 40, 60, 60, 80, 80, 100, 100]),
        (5, [60, 100]),
    ],
)
def test_a_moment_shows_the_last_frame_that_appeared_before_it(fps, expected):
    assert _levels(_read(encode_flat_video([40, 60, 80, 100], fps=10), fps=fps)) == expected


def test_time_is_told_by_the_stamps_not_by_counting_frames():
    content = encode_flat_video([40, 80, 120], stamps_ms=[0, 600, 700], fps=10)
    assert _levels(_read(content, fps=10)) == [40] * 6 + [80] + [120]


def _striped(height: int, width: int, *, upright: bool) -> bytes:
    """Return a video whose picture is grey, with white outer quarters left and right, or at top and bottom."""
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    if upright:
        pixels[:, : width // 4] = pixels[:, -width // 4 :] = 255
    else:
        pixels[: height // 4] = pixels[-height // 4 :] = 255
    return encode_mp4([pixels] * 5, 10)


def test_what_hangs_over_is_cut_away_evenly_and_no_bars_are_added():
    wide = _read(_striped(64, 128, upright=True), height=64, width=64)[0]
    tall = _read(_striped(128, 64, upright=False), height=64, width=64)[0]
    for frame in (wide, tall):
        assert abs(float(frame[4:-4, 4:-4].mean()) - 100) < 3


def test_proportions_are_kept():
    pixels = np.full((64, 128, 3), 40, dtype=np.uint8)
    pixels[16:48, 48:80] = 200
    frame = _read(encode_mp4([pixels] * 5, 10), height=32, width=32)[0]
    bright = frame.mean(axis=2) > 120
    assert abs(int(bright.any(axis=0).sum()) - int(bright.any(axis=1).sum())) <= 1


def test_a_strip_of_a_picture_does_not_ask_for_a_huge_one():
    frames = _read(encode_mp4([np.full((16, 2048, 3), 90, dtype=np.uint8)] * 3, 10), height=64, width=64)
    assert frames[0].shape == (64, 64, 3)


@pytest.mark.parametrize(("content", "error"), [(b"no video", VideoUnreadable), (encode_sound(), NoVideoStream)])
def test_what_is_no_video_is_an_error_of_its_kind(content, error):
    with pytest.raises(error):
        _read(content)


def test_the_limits_hold():
    with pytest.raises(VideoTooLarge):
        _read(encode_flat_video([50] * 3), limits=DecodeLimits(max_frame_pixels=100))


def _numbered(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), number % 251, dtype=np.uint8) for number in range(count)]


def _draw(frames, clips: int, seed: int = 0) -> list[int]:
    random = np.random.default_rng(seed)
    passage = draw_passage(frames, clips=clips, frames_per_clip=4, frames_per_second=4, random=random)
    return [int(frame[0, 0, 0]) for frame in passage]


def test_every_whole_passage_of_a_video_comes_up_and_nothing_else():
    starts = {tuple(_draw(_numbered(18), 2, seed)) for seed in range(40)}
    assert starts == {tuple(range(start, start + 8)) for start in (0, 4, 8)}


def test_a_video_with_fewer_clips_gives_those_it_has():
    assert _draw(_numbered(11), 5) == list(range(8))


def test_a_video_shorter_than_a_clip_is_held_at_its_last_frame():
    assert _draw(_numbered(2), 3) == [0, 1, 1, 1]


def test_a_long_video_is_not_read_to_its_end():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield np.zeros((1, 1, 3), dtype=np.uint8)

    assert len(_draw(endless(), 2)) == 8
    assert read == SEARCHED_SECONDS * 4
