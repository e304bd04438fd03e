"""Clips are, to the bit, those of a plain decode from start to end, whatever the file, the sampling and what is asked."""

from __future__ import annotations

import io
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_videos import ODD_VIDEOS, odd_video
from reference_reader import (
    Reference,
    assert_exact,
    assert_real_video_exact,
    assert_same_clips,
    decode_reference,
    find_real_videos,
    read_clips,
)

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling

HEIGHT, WIDTH = 24, 36
SOME_FILES = 24
SLOW_BYTES = 1_000_000
SLOW_VIDEOS = ("eight-k.mp4",)

samplings = st.builds(
    ClipSampling,
    clip_seconds=st.sampled_from((0.1, 0.35, 0.5, 1.0, 1.7, 4.0)),
    stride_seconds=st.sampled_from((0.1, 0.25, 0.4, 1.0, 2.3)),
)
frame_counts = st.integers(1, 16)
choices = st.lists(st.floats(0, 1, exclude_max=True), max_size=4)
"""Where in the video the wanted clips are, as shares of all."""


@cache
def _reference(name: str) -> Reference:
    reference = decode_reference(io.BytesIO(odd_video(name)), HEIGHT, WIDTH)
    assert reference is not None, name
    return reference


@pytest.mark.parametrize("name", [name for name in ODD_VIDEOS if name not in SLOW_VIDEOS])
@settings(max_examples=3, deadline=None)
@given(sampling=samplings, frames=frame_counts, first=choices, second=choices, clips_per_batch=st.integers(1, 5))
def test_clips_of_an_odd_file(name, sampling, frames, first, second, clips_per_batch):
    file = io.BytesIO(odd_video(name))
    assert_exact(name, file, _reference(name), sampling, frames, (first, second), clips_per_batch)


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_every_clip_of_an_odd_file_is_counted_and_comes(name):
    reference = _reference(name)
    for sampling in (ClipSampling(), ClipSampling(clip_seconds=0.3, stride_seconds=0.2)):
        reader = ClipReader(io.BytesIO(odd_video(name)), name, sampling)
        assert reader.count_clips() == reference.count_clips(sampling)
        clips = read_clips(reader, ClipGeometry(frames=3, height=HEIGHT, width=WIDTH))
        assert_same_clips(clips, reference.clips(3, sampling), name)


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_a_whole_odd_file_is_described_as_whole(name):
    reader = ClipReader(io.BytesIO(odd_video(name)), name, ClipSampling())
    clips = read_clips(reader, ClipGeometry(frames=1, height=HEIGHT, width=WIDTH))
    summary = reader.summary()
    reference = _reference(name)
    if reference.is_damaged:
        assert summary.coverage < 1
        assert summary.damage is not None
    else:
        assert (summary.clips_planned, summary.coverage, summary.damage) == (len(clips), 1, None)
        assert summary.facts.duration_seconds == reference.end_seconds


@pytest.mark.parametrize("name", [name for name in ODD_VIDEOS if name not in SLOW_VIDEOS])
def test_several_views_of_one_pass_are_those_of_a_pass_for_each(name):
    sampling = ClipSampling(clip_seconds=0.5, stride_seconds=0.3)
    geometries = [ClipGeometry(frames=frames, height=HEIGHT, width=WIDTH) for frames in (2, 7)]
    reader = ClipReader(io.BytesIO(odd_video(name)), name, sampling)
    views = list(zip(*reader.read_views(geometries, clips_per_batch=3), strict=True))
    for geometry, batches in zip(geometries, views, strict=True):
        found = {
            index: (span, pixels)
            for batch in batches
            for index, span, pixels in zip(batch.clip_indices, batch.spans, batch.pixels_NTCHW, strict=True)
        }
        assert_same_clips(found, _reference(name).clips(geometry.frames, sampling), f"{name}, {geometry.frames} frames")


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_odd_files_are_no_two_frames_alike(name):
    # Otherwise a wrong frame would pass for the right one.
    pictures = [picture.tobytes() for picture in _reference(name).pictures_CHW]
    assert len(set(pictures)) == len(pictures)


def test_clips_of_some_real_videos(real_videos):
    small = [path for path in find_real_videos(real_videos) if path.stat().st_size < SLOW_BYTES]
    chosen = random.Random(7).sample(small, SOME_FILES)
    assert sum(assert_real_video_exact(path, seed) for seed, path in enumerate(chosen)) > SOME_FILES // 2
