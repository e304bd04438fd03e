"""A replay from cached scores decides what a live run decides: same questions, same label, same probabilities."""

from __future__ import annotations

from functools import cache
from typing import get_args

import numpy as np
import pytest

from cdmodel.aggregation import Aggregation, LogPool, MeanProbability, TopMean, WeightedMean, merge_answers
from cdmodel.calibration import CLIP_FEATURES, Calibration, ConfidenceMap
from cdmodel.cascade import CascadeSettings, judge_of, label_video
from cdmodel.decode import ClipReader
from cdmodel.escalation import counted_clips, needs_student
from cdmodel.models import CascadeModels
from cdmodel.policies import (
    Agreement,
    CentreClips,
    DenseStudent,
    DenseTeacher,
    Disagreement,
    EarlyExit,
    Entropy,
    EscalationPolicy,
    Gain,
    Gate,
    Margin,
    MaxProbability,
    MotionClips,
    RandomClips,
    SelfConfidence,
    Sequential,
    TeacherConfidence,
    ThreeWay,
    TopGain,
    TopSaliency,
    UniformClips,
    VideoGain,
    VideoRank,
)
from cdmodel.replay import ScoredVideo, calibrate, replay_video
from cdmodel.sampling import ClipSampling
from cdmodel.testing import TableStudent, TableTeacher, encode_numbered_clips, table_models
from cdmodel.types import LabeledVideo, VideoPrediction, VideoRef
from storage.corpus import open_video
from storage.filesystem import open_store
from storage.score_cache import ScoreCache, read_score_cache, write_score_cache
from tasks.score_dataset import score_one, scoring_context

LABELS = ("run", "jump", "wave", "sit")
CLIPS = 11
SEEDS = (1, 2)
POLICIES: tuple[EscalationPolicy, ...] = (
    DenseTeacher(),
    DenseStudent(),
    MaxProbability(threshold=0.6),
    Entropy(threshold=0.5),
    Margin(threshold=0.3),
    SelfConfidence(threshold=0.5),
    TeacherConfidence(min_confidence=0.5),
    Gain(min_gain=0.05),
    VideoGain(min_value=0.03),
    VideoRank(min_value=0.1),
    ThreeWay(min_gain=0.2, drop_below=0.4),
    Disagreement(),
    Gate(threshold=0.99),
    Agreement(threshold=0.9),
    TopGain(clips=3),
    TopSaliency(clips=4),
    UniformClips(clips=3),
    RandomClips(clips=4, seed=5),
    CentreClips(clips=3),
    MotionClips(clips=3),
    EarlyExit(threshold=0.5),
    Sequential(min_value=0.01, stop_confidence=0.95, clips_per_round=2),
)
AGGREGATIONS: tuple[Aggregation, ...] = (
    MeanProbability(),
    WeightedMean(confidence_power=1.5),
    TopMean(clips=2),
    LogPool(confidence_power=2.0, independence=0.4, teacher_factor=1.7),
)


def test_every_kind_of_policy_is_among_those_compared():
    assert {type(policy) for policy in POLICIES} == set(get_args(EscalationPolicy))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.kind)
def test_a_replay_asks_and_answers_exactly_as_the_live_run(policy, seed, numbered):
    video, cached = numbered[seed]
    models = _models(seed)
    scored = calibrate(cached, models.manifest.calibration, models.manifest.label_kind)
    for aggregation in AGGREGATIONS:
        live = _label(video, models, policy, aggregation)
        asked, probabilities_K, weights_N = _replay(scored, models, policy, aggregation)
        assert [clip.clip_index for clip in live.clips if clip.teacher_label_id is not None] == asked
        ranking = np.argsort(-probabilities_K, kind="stable").tolist()
        assert [label.label_id for label in live.top_labels] == ranking
        assert [label.probability for label in live.top_labels] == probabilities_K[ranking].tolist()
        assert [clip.weight for clip in live.clips] == weights_N[[clip.clip_index for clip in live.clips]].tolist()
        assert live.clips_student == (CLIPS if needs_student(policy) else 0)


def test_the_policies_compared_do_ask_about_some_clips_and_not_about_others(numbered):
    """Otherwise the comparison above would say little."""
    partly = set()
    for seed in SEEDS:
        models = _models(seed)
        scored = calibrate(numbered[seed][1], models.manifest.calibration, models.manifest.label_kind)
        for policy in POLICIES:
            asked, _, _ = _replay(scored, models, policy, MeanProbability())
            if 0 < len(asked) < CLIPS:
                partly.add(type(policy))
    everything_or_nothing = {DenseTeacher, DenseStudent, Gate, Agreement}
    assert partly == {type(policy) for policy in POLICIES} - everything_or_nothing


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Return for each seed the video and its scores, after a round through the cache's file."""
    folder = tmp_path_factory.mktemp("numbered")
    path = folder / "v.mkv"
    path.write_bytes(encode_numbered_clips(CLIPS))
    video = VideoRef(video_id="v.mkv", uri=str(path), video_version="1", size_bytes=path.stat().st_size)
    labeled = LabeledVideo(video=video, labels=("jump",), group="g", split="test")
    store = open_store(str(folder / "out"))
    found = {}
    for seed in SEEDS:
        models = _models(seed)
        entry = score_one(labeled, models, ClipSampling())
        written = ScoreCache(
            context=scoring_context(models, ClipSampling()), content_sha256="0", entries=(entry,), unreadable=()
        )
        write_score_cache(store, f"{seed}.parquet", written)
        found[seed] = (video, read_score_cache(store, f"{seed}.parquet").entries[0].answers)
    return found


@cache
def _models(seed: int) -> CascadeModels:
    random = np.random.default_rng(seed)
    student_NK = random.dirichlet(np.full(len(LABELS), 0.8), size=CLIPS) * 0.98 + 0.005
    teacher_NK = random.dirichlet(np.full(len(LABELS), 0.4), size=CLIPS) * 0.98 + 0.005
    student = TableStudent(student_NK, random.uniform(0.1, 0.9, CLIPS), random.uniform(0.1, 0.9, CLIPS))
    return table_models(student, TableTeacher(teacher_NK), labels=LABELS, calibration=_calibration(seed))


def _calibration(seed: int) -> Calibration:
    """Return a calibration in which every feature counts."""
    random = np.random.default_rng(100 + seed)

    def confidence(features: int) -> ConfidenceMap:
        return ConfidenceMap(weights=tuple(random.normal(scale=0.4, size=features).tolist()), bias=0.1)

    return Calibration(
        student_temperature=1.3,
        teacher_temperature=0.8,
        video_temperature=1.7,
        q_teacher=confidence(len(CLIP_FEATURES)),
        q_student=confidence(len(CLIP_FEATURES)),
        teacher_answer=confidence(6),
        teacher_alone=confidence(3),
    )


def _label(
    video: VideoRef, models: CascadeModels, policy: EscalationPolicy, aggregation: Aggregation
) -> VideoPrediction:
    with open_video(video) as file:
        reader = ClipReader(file, video.uri, ClipSampling())
        return label_video(video, reader, models, CascadeSettings(policy=policy, aggregation=aggregation))


def _replay(
    scored: ScoredVideo, models: CascadeModels, policy: EscalationPolicy, aggregation: Aggregation
) -> tuple[list[int], np.ndarray, np.ndarray]:
    judge = judge_of(models, aggregation)
    state = replay_video(policy, judge, scored).state
    score = judge.score(merge_answers(state, counted_clips(policy, state)))
    return np.flatnonzero(state.asked_N).tolist(), score.probabilities_K, score.weights_N
