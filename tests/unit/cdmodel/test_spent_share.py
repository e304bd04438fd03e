"""What another bundle would spend on the same clips, which a new one is then held to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdmodel.aggregation import Judge
from cdmodel.bundle_fit import fit_bundle
from cdmodel.errors import BundleError
from cdmodel.models import load_student
from cdmodel.policies import DenseStudent, DenseTeacher, Gain, Sequential, VideoRank
from cdmodel.replay import CachedVideo, ClipFlops, VideoSeconds, calibrate, replay
from cdmodel.role_clips import RoleClips
from cdmodel.sampling import ClipGeometry
from cdmodel.spent_share import spent_share
from cdmodel.teacher_source import TeacherSettings
from cdmodel.testing import write_tiny_bundle
from cdmodel.train_settings import StudentSettings, TrainSettings

SEEN = ClipGeometry(frames=2, height=16, width=16)
CLIPS_V = np.array([7, 1, 12, 4])
NO_TIME = VideoSeconds(decode_student=0.0, decode_teacher=0.0, student=0.0, teacher=0.0)


def _noise(seed: int, clips_V: np.ndarray = CLIPS_V, labels: int = 3) -> RoleClips:
    random = np.random.default_rng(seed)
    clips, videos = int(clips_V.sum()), len(clips_V)
    return RoleClips(
        student_NTCHW=random.integers(0, 255, size=(clips, 2, 3, 16, 16)).astype(np.uint8),
        teacher_NTCHW=random.integers(0, 255, size=(clips, 8, 3, 32, 32)).astype(np.uint8),
        truth_VK=np.eye(labels, dtype=np.bool_)[np.arange(videos) % labels],
        clips_V=clips_V,
        groups=tuple(f"g{seed}-{video}" for video in range(videos)),
        videos=tuple(f"{seed}-{video}.mp4" for video in range(videos)),
    )


@pytest.mark.parametrize("policy", [VideoRank(min_value=0.4), Gain(min_gain=0.0), DenseTeacher(), DenseStudent()])
def test_it_is_what_a_replay_of_both_models_spends(tmp_path: Path, policy) -> None:
    manifest = write_tiny_bundle(tmp_path / "bundle", policy=policy)
    clips = _noise(0)
    judge = Judge(aggregation=manifest.default_aggregation, video_temperature=manifest.calibration.video_temperature)
    logits = load_student(tmp_path / "bundle").score(clips.student_NTCHW)
    ends_V = np.cumsum(CLIPS_V)
    scored = [
        calibrate(
            CachedVideo(
                video_id=clips.videos[place],
                group=clips.groups[place],
                truth_K=clips.truth_VK[place],
                student=logits.rows(slice(end - count, end)),
                teacher_logits_NK=np.zeros((count, 3), dtype=np.float32),
                seconds=NO_TIME,
            ),
            manifest.calibration,
            "single",
        )
        for place, (end, count) in enumerate(zip(ends_V, CLIPS_V, strict=True))
    ]
    spent = replay(policy, judge, scored, ClipFlops(student=1, teacher=10)).escalated_share
    assert spent_share(tmp_path / "bundle", clips, SEEN) == pytest.approx(spent)


def test_a_trained_bundle_is_held_to_what_the_other_spends(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cdmodel.defaults_fit.PRICE_OF_DENSE_TEACHER", -1.0)  # all would be asked, if it might
    roles = {role: _noise(seed, labels=2) for seed, role in enumerate(("train", "conf", "cal", "test"))}
    settings = TrainSettings(
        clips_per_step=4,
        precision="float32",
        teacher=TeacherSettings(geometry=ClipGeometry(frames=8, height=32, width=32), steps=2),
        student=StudentSettings(geometry=SEEN, steps=2),
    )

    def spent(policy) -> float:
        folder = tmp_path / policy.kind
        write_tiny_bundle(folder, labels=("a", "b"), policy=policy)
        held = replace(settings, no_dearer_than=str(folder))
        found = fit_bundle(roles, ("a", "b"), held, lambda progress: None).decisions
        shares = np.linspace(0, 1, len(found.value_at_share))
        return float(np.interp(found.policy.min_value, found.value_at_share[::-1], shares[::-1]))

    assert spent(DenseStudent()) == 0
    held = spent(VideoRank(min_value=0.2))
    asked = spent_share(tmp_path / "video_rank", roles["cal"], SEEN)
    assert 0.1 < asked < 0.7
    assert held == pytest.approx(asked, abs=0.06)
    assert spent(DenseTeacher()) > 0.7


def test_what_cannot_be_told_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "waits", policy=Sequential(min_value=0.0, clips_per_round=1))
    with pytest.raises(BundleError, match=r"sequential waits .*retrain\.keep_cost = false"):
        spent_share(tmp_path / "waits", _noise(0), SEEN)
    write_tiny_bundle(tmp_path / "small", policy=DenseTeacher())
    with pytest.raises(BundleError, match=r"height=16.*here.*height=20"):
        spent_share(tmp_path / "small", _noise(0), ClipGeometry(frames=2, height=20, width=16))
