from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from cdmodel import pass_choice
from cdmodel.aggregation import LogPool
from cdmodel.cascade import CascadeSettings, label_video
from cdmodel.clips import ClipBatch
from cdmodel.decode import ClipReader
from cdmodel.pass_choice import KeptClips, PassChooser
from cdmodel.policies import EscalationPolicy, Gain, MaxProbability, Sequential
from cdmodel.sampling import ClipSampling
from cdmodel.testing import TableStudent, TableTeacher, encode_numbered_clips, table_models
from cdmodel.types import ClipSpan, VideoPrediction, VideoRef

CLIPS = 6
CONTENT = encode_numbered_clips(CLIPS)
VIDEO = VideoRef(video_id="a.mp4", uri="/videos/a.mp4", video_version="1", size_bytes=1)
PROBABILITIES_NK = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
POLICIES = [Gain(min_gain=0.2), MaxProbability(threshold=1.0), Sequential(min_value=-1.0, clips_per_round=2)]


def _label(policy: EscalationPolicy, passes: PassChooser | None) -> VideoPrediction:
    student = TableStudent(PROBABILITIES_NK, np.linspace(0.4, 0.9, CLIPS), np.linspace(0.7, 0.2, CLIPS))
    models = table_models(student, TableTeacher(PROBABILITIES_NK[:, ::-1]), labels=["run", "jump"])
    reader = ClipReader(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())
    return label_video(VIDEO, reader, models, CascadeSettings(policy=policy, aggregation=LogPool()), passes)


def _eager() -> PassChooser:
    chooser = PassChooser()
    for _ in range(20):
        chooser.learn(10, 10)
    return chooser


def test_one_pass_pays_once_many_clips_are_escalated_and_no_longer_when_few_are():
    chooser = PassChooser()
    assert not chooser.prefers_one_pass
    for _ in range(10):
        chooser.learn(10, 6)
    assert chooser.prefers_one_pass
    for _ in range(10):
        chooser.learn(10, 1)
    assert not chooser.prefers_one_pass


def test_a_video_without_clips_teaches_nothing_wrong():
    chooser = PassChooser()
    chooser.learn(0, 0)
    assert not chooser.prefers_one_pass


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.kind)
def test_the_answers_are_those_of_two_passes_and_packets_are_read_once(policy):
    two, one = _label(policy, None), _label(policy, _eager())
    assert two.clips_teacher > 0
    timeless = [replace(prediction, cost=two.cost, labeled_at=two.labeled_at) for prediction in (one, two)]
    assert timeless[0] == timeless[1]
    assert one.cost.packets_read < two.cost.packets_read


def test_a_video_whose_clips_take_too_much_is_read_again(monkeypatch):
    monkeypatch.setattr(pass_choice, "MOST_KEPT_BYTES", 10_000)
    two, one = _label(POLICIES[1], None), _label(POLICIES[1], _eager())
    assert one.clips == two.clips
    assert one.cost.packets_read == two.cost.packets_read


def test_a_labeled_video_is_learned_from():
    chooser = PassChooser()
    for _ in range(20):
        _label(MaxProbability(threshold=1.0), chooser)
    assert chooser.prefers_one_pass


def test_kept_clips_come_in_the_batches_of_a_pass_for_them_alone():
    kept = KeptClips()
    for start in (0, 4):
        kept.keep(_batch(range(start, start + 4)))
    batches = kept.select([1, 3, 4, 6, 7], clips_per_batch=2)
    assert batches is not None
    assert [batch.clip_indices for batch in batches] == [(1, 3), (4, 6), (7,)]
    assert [batch.pixels_NTCHW[:, 0, 0, 0, 0].tolist() for batch in batches] == [[1, 3], [4, 6], [7]]


def _batch(indices: range) -> ClipBatch:
    pixels_N = np.array(indices, dtype=np.uint8)
    return ClipBatch(
        clip_indices=tuple(indices),
        spans=tuple(ClipSpan(start_seconds=index, end_seconds=index + 1) for index in indices),
        pixels_NTCHW=pixels_N[:, None, None, None, None] * np.ones((1, 2, 3, 4, 4), dtype=np.uint8),
    )
