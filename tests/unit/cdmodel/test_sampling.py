from __future__ import annotations

import pytest

from cdmodel.sampling import ClipGeometry, ClipSampling, count_clips, frame_times, has_clip, nominal_span
from cdmodel.types import ClipSpan

OVERLAPPING = ClipSampling(clip_seconds=2.0, stride_seconds=0.5)


@pytest.mark.parametrize(
    ("duration_seconds", "clips"), [(0.0, 1), (0.1, 1), (1.0, 1), (1.49, 1), (1.5, 2), (1.51, 2), (3.0, 3), (3.5, 4)]
)
def test_a_tail_counts_from_half_a_clip_on_and_the_first_clip_always(duration_seconds, clips):
    assert count_clips(duration_seconds, ClipSampling()) == clips


def test_a_tail_of_exactly_half_survives_the_rounding_of_timestamps():
    assert count_clips(2.5 - 1e-9, ClipSampling()) == 3


def test_overlapping_clips_start_a_stride_apart():
    assert nominal_span(3, OVERLAPPING) == ClipSpan(start_seconds=1.5, end_seconds=3.5)
    assert count_clips(4.0, OVERLAPPING) == 7


def test_a_stride_longer_than_a_clip_leaves_gaps():
    sampling = ClipSampling(clip_seconds=1.0, stride_seconds=10.0)
    assert count_clips(10.4, sampling) == 1
    assert count_clips(10.5, sampling) == 2


def test_the_first_clip_exists_however_short_the_video():
    assert has_clip(0, 0.0, ClipSampling())
    assert not has_clip(1, 0.0, ClipSampling())


def test_frames_are_taken_from_the_middles_of_equal_parts():
    assert frame_times(ClipSpan(start_seconds=2.0, end_seconds=3.0), 2) == (2.25, 2.75)


@pytest.mark.parametrize("field", ["clip_seconds", "stride_seconds"])
@pytest.mark.parametrize("value", [0.0, -1.0, 3601.0, float("nan"), float("inf")])
def test_a_length_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        ClipSampling(**{field: value})


@pytest.mark.parametrize("field", ["frames", "height", "width"])
def test_a_clip_has_at_least_one_frame_of_one_pixel(field):
    with pytest.raises(ValueError, match="at least 1"):
        ClipGeometry(**{"frames": 1, "height": 1, "width": 1, field: 0})
