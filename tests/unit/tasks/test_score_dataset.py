from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdmodel.errors import DamagedObject
from cdmodel.models import load_bundle
from cdmodel.sampling import ClipSampling
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import LabeledVideo, VideoRef
from storage.filesystem import open_store
from tasks.score_dataset import score_dataset

LABELS = ("left", "right", "still")
SAMPLING = ClipSampling()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "b"
    write_tiny_bundle(folder, labels=LABELS)
    return load_bundle(folder)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def videos(tmp_path) -> list[LabeledVideo]:
    found = []
    for number, content in enumerate((encode_numbered_clips(3), b"no video", encode_numbered_clips(2))):
        path = tmp_path / f"{number}.mkv"
        path.write_bytes(content)
        ref = VideoRef(video_id=path.name, uri=str(path), video_version="1", size_bytes=len(content))
        found.append(LabeledVideo(video=ref, labels=(LABELS[number],), group=str(number), split="test"))
    return found


def test_every_clip_gets_both_answers_and_every_stage_its_seconds(models, store, videos):
    scored = score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    assert [len(entry.spans) for entry in scored.entries] == [3, 2]
    for entry in scored.entries:
        seconds = entry.answers.seconds
        assert entry.answers.teacher_logits_NK.shape == entry.answers.student.logits_NK.shape == (len(entry.spans), 3)
        assert min(seconds.decode_student, seconds.decode_teacher, seconds.student, seconds.teacher) > 0
        assert entry.answers.truth_K.tolist() == [label in entry.video.labels for label in LABELS]
    assert scored.entries[0].duration_seconds == pytest.approx(3.0)


def test_a_video_that_cannot_be_read_is_left_out_by_name(models, store, videos):
    scored = score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    assert [video.uri for video in scored.unreadable] == [videos[1].video.uri]
    assert scored.unreadable[0].reason


def test_a_killed_evaluation_goes_on_with_the_part_it_was_at(models, store, videos):
    done = []

    def kill(count, _):
        done.append(count)
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_dataset(videos, models, SAMPLING, store, kill, videos_per_part=2)
    assert len(store.list("scores")) == 1

    for video in videos[:2]:
        Path(video.video.uri).unlink()
    scored = score_dataset(videos, models, SAMPLING, store, lambda *_: None, videos_per_part=2)
    assert [entry.answers.video_id for entry in scored.entries] == ["0.mkv", "2.mkv"]


def test_what_was_scored_before_comes_back_bit_for_bit(models, store, videos):
    first = score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    second = score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    for one, other in zip(first.entries, second.entries, strict=True):
        np.testing.assert_array_equal(one.answers.teacher_logits_NK, other.answers.teacher_logits_NK)
        np.testing.assert_array_equal(one.answers.student.logits_NK, other.answers.student.logits_NK)
        assert one.answers.seconds == other.answers.seconds
    assert second.unreadable == first.unreadable


def test_another_sampling_or_another_choice_of_videos_is_scored_anew(models, store, videos):
    score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    score_dataset(videos, models, ClipSampling(stride_seconds=0.5), store, lambda *_: None)
    score_dataset(videos[:2], models, SAMPLING, store, lambda *_: None)
    assert len(store.list("scores")) == 3


def test_a_damaged_part_is_named_and_not_scored_over(models, store, videos, tmp_path):
    score_dataset(videos, models, SAMPLING, store, lambda *_: None)
    (part,) = (tmp_path / "out" / "scores").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DamagedObject, match=part.name):
        score_dataset(videos, models, SAMPLING, store, lambda *_: None)
