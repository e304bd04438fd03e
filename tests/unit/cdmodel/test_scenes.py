from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from cdmodel.errors import ConfigError
from cdmodel.scenes import (
    FRAMES_PER_SECOND,
    HEIGHT,
    LABELS,
    VIDEOS_PER_GROUP,
    WIDTH,
    SceneSpec,
    draw_scene,
    render,
)


def test_a_scene_follows_from_its_seed_and_index_alone():
    first, again = (np.stack(list(render(draw_scene(SceneSpec(seed=3), 5)))) for _ in range(2))
    other = np.stack(list(islice(render(draw_scene(SceneSpec(seed=4), 5)), 8)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:8], other)


def test_frames_are_rgb_of_the_stated_size_and_rate():
    scene = draw_scene(SceneSpec(seed=0), 0)
    frames = list(render(scene))
    assert len(frames) == scene.frames == len(scene.activities) * FRAMES_PER_SECOND
    assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in frames)


def test_a_group_shares_its_looks_but_not_its_class():
    scenes = [draw_scene(SceneSpec(seed=1), index) for index in range(VIDEOS_PER_GROUP)]
    stranger = draw_scene(SceneSpec(seed=1), VIDEOS_PER_GROUP)
    colours = [np.stack(list(render(scene))).mean(axis=(0, 1, 2)) for scene in [*scenes, stranger]]
    within = max(np.abs(colour - colours[0]).max() for colour in colours[:-1])
    assert len({scene.group for scene in scenes}) == 1
    assert len({scene.label for scene in scenes}) == VIDEOS_PER_GROUP
    assert stranger.group != scenes[0].group
    assert within < 30 < np.abs(colours[-1] - colours[0]).max()


def test_every_run_of_twelve_scenes_holds_each_class_once():
    labels = [draw_scene(SceneSpec(seed=9), index).label for index in range(12, 24)]
    assert sorted(labels) == list(LABELS)


@pytest.mark.parametrize("distractors", [0.0, 0.3, 0.5, 0.99])
def test_the_share_of_distractors_is_kept_and_one_second_always_shows_the_class(distractors):
    for index in range(20):
        activities = draw_scene(SceneSpec(seed=2, distractors=distractors), index).activities
        idle = sum(activity != "action" for activity in activities)
        assert idle == min(round(distractors * len(activities)), len(activities) - 1)


def test_opposite_motions_start_alike_and_differ_only_in_time():
    """A class can't be told from one frame: time reversed, moving left is moving right."""
    from cdmodel.scenes import _MOTIONS, _Start

    start = _Start(x=60, y=40, radius=10, angle=0, vigour=1, drift_x=0, drift_y=0)
    for forth, back in [("move_left", "move_right"), ("move_up", "move_down"), ("grow", "shrink")]:
        for t in np.linspace(0, 1, 9):
            there, back_again = _MOTIONS[forth](start, t), _MOTIONS[back](start, 1 - t)
            assert (there.x, there.y) == pytest.approx((back_again.x, back_again.y))
            assert there.radius == pytest.approx(back_again.radius)


def test_a_second_without_the_sprite_moves_less_than_one_with_it():
    spec = SceneSpec(seed=5)
    change = {"action": [], "static": []}
    for index in range(16):
        scene = draw_scene(spec, index)
        frames = np.stack(list(render(scene))).astype(np.float32)
        for second, activity in enumerate(scene.activities):
            if activity in change:
                clip = frames[second * FRAMES_PER_SECOND : (second + 1) * FRAMES_PER_SECOND]
                change[activity].append(clip.std(axis=0).mean())
    assert np.mean(change["action"]) > np.mean(change["static"])


@pytest.mark.parametrize(("seed", "distractors"), [(-1, 0.5), (0, -0.1), (0, 1.0)])
def test_values_out_of_range_are_refused(seed, distractors):
    with pytest.raises(ConfigError):
        SceneSpec(seed=seed, distractors=distractors)
