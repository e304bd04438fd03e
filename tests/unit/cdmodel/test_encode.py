from __future__ import annotations

import io

import numpy as np

from cdmodel.decode import ClipReader
from cdmodel.encode import encode_mp4
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.scenes import FRAMES_PER_SECOND, HEIGHT, WIDTH, SceneSpec, draw_scene, render


def test_the_same_frames_give_the_same_bytes():
    scene = draw_scene(SceneSpec(seed=0), 1)
    assert encode_mp4(render(scene), FRAMES_PER_SECOND) == encode_mp4(render(scene), FRAMES_PER_SECOND)


def test_the_index_comes_before_the_pictures():
    content = encode_mp4(render(draw_scene(SceneSpec(seed=0), 0)), FRAMES_PER_SECOND)
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def test_what_was_encoded_decodes_to_the_same_seconds_and_nearly_the_same_pixels():
    scene = draw_scene(SceneSpec(seed=0), 2)
    frames = list(render(scene))
    content = encode_mp4(frames, FRAMES_PER_SECOND)
    reader = ClipReader(io.BytesIO(content), "scene.mp4", ClipSampling())
    geometry = ClipGeometry(frames=FRAMES_PER_SECOND, height=HEIGHT, width=WIDTH)
    clips = np.concatenate([batch.pixels_NTCHW for batch in reader.read_clips(geometry)])
    assert len(clips) == len(scene.activities)
    original = np.stack(frames).reshape(len(clips), FRAMES_PER_SECOND, HEIGHT, WIDTH, 3).transpose(0, 1, 4, 2, 3)
    assert np.abs(clips.astype(float) - original).mean() < 12
