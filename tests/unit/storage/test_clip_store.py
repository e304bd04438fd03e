from __future__ import annotations

import numpy as np
import pytest

from storage.clip_store import ClipStore, StoredVideo

SHAPES = [(2, 3, 4, 4), (4, 3, 6, 5)]


def _clips(seed, clips):
    random = np.random.default_rng(seed)
    return [random.integers(0, 255, size=(clips, *shape), dtype=np.uint8) for shape in SHAPES]


def _filled(folder):
    store = ClipStore(folder, "train", SHAPES)
    store.add(_clips(0, 3))
    store.add_failure("no frames")
    store.add(_clips(1, 2))
    return store


def test_clips_come_back_in_both_sizes_one_video_after_another(tmp_path):
    _filled(tmp_path)
    again = ClipStore(tmp_path, "train", SHAPES)
    for number, array in enumerate(again.map_arrays()):
        assert np.array_equal(array, np.concatenate([_clips(0, 3)[number], _clips(1, 2)[number]]))
    assert again.videos == (
        StoredVideo(clips=3, failure=None),
        StoredVideo(clips=0, failure="no frames"),
        StoredVideo(clips=2, failure=None),
    )


def test_arrays_are_mapped_and_cannot_be_changed(tmp_path):
    array, _ = _filled(tmp_path).map_arrays()
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


@pytest.mark.parametrize("damage", ["half a line", "bytes without a line", "a line without bytes"])
def test_what_a_kill_left_half_is_cut_off_and_the_next_video_goes_there(tmp_path, damage):
    _filled(tmp_path)
    index, pixels = tmp_path / "train.jsonl", tmp_path / "train-1.u8"
    match damage:
        case "half a line":
            index.write_text(index.read_text()[:-9])
            kept = 2
        case "bytes without a line":
            pixels.write_bytes(pixels.read_bytes() + b"more")
            kept = 3
        case _:
            pixels.write_bytes(pixels.read_bytes()[:-1])
            kept = 2
    store = ClipStore(tmp_path, "train", SHAPES)
    assert len(store.videos) == kept
    store.add(_clips(2, 1))
    for number, array in enumerate(ClipStore(tmp_path, "train", SHAPES).map_arrays()):
        assert np.array_equal(array[-1:], _clips(2, 1)[number])
        assert np.array_equal(array[:3], _clips(0, 3)[number])


def test_a_store_of_unreadable_videos_has_no_clips(tmp_path):
    store = ClipStore(tmp_path, "train", SHAPES)
    store.add_failure("no frames")
    assert [array.shape for array in store.map_arrays()] == [(0, 2, 3, 4, 4), (0, 4, 3, 6, 5)]
