from __future__ import annotations

import numpy as np
import pytest
import torch

from cdmodel.bundle_fit import fit_bundle
from cdmodel.role_clips import RoleClips
from cdmodel.sampling import ClipGeometry
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings

SETTINGS = TrainSettings(
    clips_per_step=4,
    precision="float32",
    teacher=TeacherSettings(geometry=ClipGeometry(frames=8, height=32, width=32), steps=3),
    student=StudentSettings(geometry=ClipGeometry(frames=4, height=16, width=16), steps=3),
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _noise(seed: int, clips_V: list[int]) -> RoleClips:
    random = np.random.default_rng(seed)
    clips = sum(clips_V)
    return RoleClips(
        student_NTCHW=random.integers(0, 255, size=(clips, 4, 3, 16, 16)).astype(np.uint8),
        teacher_NTCHW=random.integers(0, 255, size=(clips, 8, 3, 32, 32)).astype(np.uint8),
        truth_VK=np.eye(2, dtype=np.bool_)[np.arange(len(clips_V)) % 2],
        clips_V=np.array(clips_V),
        groups=tuple(f"g{seed}-{video}" for video in range(len(clips_V))),
        videos=tuple(f"{seed}-{video}.mp4" for video in range(len(clips_V))),
    )


def test_each_clip_bears_the_label_of_its_video():
    assert _noise(0, [2, 1, 3]).clip_labels().tolist() == [0, 0, 1, 0, 0, 0]


def test_counts_that_do_not_agree_are_refused():
    clips = _noise(0, [2, 2])
    with pytest.raises(ValueError, match="do not agree"):
        RoleClips(
            student_NTCHW=clips.student_NTCHW[1:],
            teacher_NTCHW=clips.teacher_NTCHW,
            truth_VK=clips.truth_VK,
            clips_V=clips.clips_V,
            groups=clips.groups,
            videos=clips.videos,
        )


def test_metrics_are_of_the_test_role_and_the_saving_adds_up():
    roles = {
        "train": _noise(0, [3, 2, 3]),
        "conf": _noise(1, [2, 2]),
        "cal": _noise(2, [4, 4]),
        "test": _noise(3, [2, 5]),
    }
    metrics = fit_bundle(roles, ("a", "b"), SETTINGS, lambda progress: None).metrics
    assert (metrics["videos_test"], metrics["clips_test"]) == (2, 7)
    spent = (
        metrics["student_flops_share"] + metrics["escalated_clip_share_default"] + metrics["saved_flops_share_default"]
    )
    assert spent == pytest.approx(1, abs=2e-4)
