from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdmodel.bundle import ModelSpec
from cdmodel.clip_drawing import ClipDrawer
from cdmodel.role_clips import ClipPixels, LabeledClips, RoleClips, clips_for_student
from cdmodel.sampling import ClipGeometry

SPEC = ModelSpec(
    builder="cdmodel.student:build_student",
    arguments={},
    geometry=ClipGeometry(frames=2, height=6, width=6),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    weights_sha256="",
)


def _clips(clips_V):
    total = sum(clips_V)
    pixels = np.random.default_rng(0).integers(0, 255, size=(total, 2, 3, 6, 6), dtype=np.uint8)
    return LabeledClips(
        pixels=ClipPixels.of(pixels[:3], pixels[3:]),
        truth_NK=np.eye(3, dtype=np.bool_)[np.arange(total) % 3],
        video_N=np.repeat(np.arange(len(clips_V)), clips_V),
        videos=tuple(f"{video}.mp4" for video in range(len(clips_V))),
    )


def _drawer(clips, *, size=16, seed=0, stream=1, by_video=False):
    return ClipDrawer(clips, SPEC, size=size, seed=seed, stream=stream, device=torch.device("cpu"), by_video=by_video)


def test_clips_of_several_arrays_are_read_as_one():
    whole = np.random.default_rng(0).integers(0, 255, size=(9, 2, 3, 4, 4), dtype=np.uint8)
    pixels = ClipPixels.of(whole[:2], whole[2:3], whole[3:])
    places = np.array([8, 0, 2, 2, 5])
    assert np.array_equal(pixels.read(places), whole[places])
    assert np.array_equal(pixels.subset(places).read(np.array([0, 4])), whole[[8, 5]])


def test_a_step_draws_the_same_batch_whenever_it_is_asked():
    clips = _clips([4, 4, 4])
    first, other = _drawer(clips), _drawer(clips)
    other.draw(1)
    assert torch.equal(first.draw(7).clips_NTCHW, other.draw(7).clips_NTCHW)
    assert not torch.equal(first.draw(7).clips_NTCHW, first.draw(8).clips_NTCHW)


@pytest.mark.parametrize("by_video", [False, True])
def test_labels_and_videos_are_those_of_the_clips_that_were_drawn(by_video):
    clips = _clips([4, 1, 6])
    drawer = _drawer(clips, by_video=by_video)
    batch = drawer.draw(3)
    assert len(batch.rows_N) == 16
    assert np.array_equal(batch.truth_NK.numpy(), clips.truth_NK[batch.rows_N])
    assert np.array_equal(batch.video_N.numpy(), clips.video_N[batch.rows_N])
    assert drawer.name_videos(3) == sorted({f"{video}.mp4" for video in batch.video_N.tolist()})


def test_every_clip_has_its_turn():
    clips = _clips([3, 5, 4])
    for by_video in (False, True):
        drawer = _drawer(clips, by_video=by_video)
        seen = np.concatenate([drawer.draw(step).rows_N for step in range(40)])
        assert set(seen) == set(range(12))


def test_by_video_several_clips_of_few_videos_share_a_batch():
    clips = _clips([10] * 20)
    alone, together = _drawer(clips).draw(1), _drawer(clips, by_video=True).draw(1)
    assert len(set(together.video_N.tolist())) <= 2 < len(set(alone.video_N.tolist()))


@pytest.mark.parametrize("by_video", [False, True])
def test_heavy_videos_are_drawn_as_much_oftener(by_video):
    plain = _clips([5, 5, 5])
    heavy = replace(plain, weight_N=np.repeat([1.0, 8.0, 1.0], 5))
    drawer = _drawer(heavy, size=800, by_video=by_video)
    drawn = np.concatenate([drawer.draw(step).video_N.numpy() for step in range(5)])
    share_V = np.bincount(drawn, minlength=3) / len(drawn)
    assert share_V == pytest.approx([0.1, 0.8, 0.1], abs=0.08)
    assert plain.subset(np.array([1, 2])).weight_N is None
    assert heavy.subset(np.array([4, 5])).weight_N.tolist() == [1.0, 8.0]


def _role(weight_V):
    pixels = np.zeros((6, 2, 3, 6, 6), dtype=np.uint8)
    return RoleClips(
        student_NTCHW=pixels,
        teacher_NTCHW=pixels,
        truth_VK=np.eye(3, dtype=np.bool_),
        clips_V=np.array([2, 2, 2]),
        groups=("a", "b", "c"),
        videos=("a.mp4", "b.mp4", "c.mp4"),
        weight_V=None if weight_V is None else np.array(weight_V),
    )


@pytest.mark.parametrize("by_video", [False, True])
def test_equal_weights_draw_as_if_there_were_none(by_video):
    plain, equal = clips_for_student(_role(None)), clips_for_student(_role([4.0, 4.0, 4.0]))
    assert equal.weight_N is None
    for step in range(3):
        one, other = (_drawer(clips, by_video=by_video).draw(step) for clips in (plain, equal))
        assert np.array_equal(one.rows_N, other.rows_N)
        assert torch.equal(one.clips_NTCHW, other.clips_NTCHW)


def test_a_role_whose_weights_are_equal_keeps_them_beside_others():
    joined = clips_for_student(_role([4.0, 4.0, 4.0]), _role(None), _role([1.0, 2.0, 3.0]))
    assert joined.weight_N.tolist() == [4.0] * 6 + [1.0] * 6 + [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
