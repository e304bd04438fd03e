from __future__ import annotations

import numpy as np
import torch

from cdmodel.augmentation import recolour_clips, shift_clips


def test_a_shift_moves_all_frames_of_a_clip_alike():
    pixels = np.tile(np.random.default_rng(0).integers(0, 255, (1, 1, 3, 36, 36), dtype=np.uint8), (5, 4, 1, 1, 1))
    moved = shift_clips(pixels, np.random.default_rng(1))
    assert all(np.array_equal(clip[0], clip[3]) for clip in moved)
    assert len({clip.tobytes() for clip in moved}) > 1


def test_a_shift_moves_by_a_twelfth_at_most_and_repeats_the_border():
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8), (200, 1, 3, 24, 24)).copy()
    moved = shift_clips(ramp, np.random.default_rng(0))
    steps = moved[:, 0, 0, 12, 12].astype(int) - 12
    assert set(steps) == {-2, -1, 0, 1, 2}
    rightmost = moved[steps == 2][0, 0, 0, 0]
    assert rightmost[-3:].tolist() == [23, 23, 23]


def test_pictures_smaller_than_twelve_pixels_stay_where_they_are():
    pixels = np.random.default_rng(0).integers(0, 255, (2, 2, 3, 8, 8), dtype=np.uint8)
    assert np.array_equal(shift_clips(pixels, np.random.default_rng(1)), pixels)


def test_new_colours_leave_a_still_clip_still():
    still = torch.randn(3, 1, 3, 8, 8).repeat(1, 4, 1, 1, 1)
    varied = recolour_clips(still, np.random.default_rng(0))
    assert torch.equal(varied[:, 0], varied[:, 3])
    assert not torch.allclose(varied, still)


def test_a_new_channel_is_an_old_one_stretched_and_offset():
    clip = torch.randn(1, 2, 3, 8, 8)
    varied = recolour_clips(clip, np.random.default_rng(3))
    for channel in range(3):
        correlations = [
            torch.corrcoef(torch.stack([varied[0, :, channel].flatten(), clip[0, :, old].flatten()]))[0, 1]
            for old in range(3)
        ]
        assert max(correlations) > 0.9999


def test_a_shifted_pixel_is_the_one_that_lies_as_far_off_or_the_nearest_at_the_border():
    pixels = np.random.default_rng(0).integers(0, 255, (30, 2, 3, 24, 36), dtype=np.uint8)
    moved = shift_clips(pixels, np.random.default_rng(5))
    wide = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (2, 2), (3, 3)), mode="edge")
    for clip in range(30):
        assert any(
            np.array_equal(moved[clip], wide[clip, ..., 2 + down : 26 + down, 3 + right : 39 + right])
            for down in range(-2, 3)
            for right in range(-3, 4)
        )
