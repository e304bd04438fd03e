from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured_videos import write_coloured_set

from cdmodel.ablation_arms import TrainedArm
from cdmodel.decode import ClipReader
from cdmodel.models import load_bundle, normalise
from cdmodel.student_recipes import StudentRecipe
from cdmodel.testing import write_tiny_bundle
from storage.corpus import open_video
from storage.dataset import read_dataset
from storage.filesystem import open_store
from tasks.arms_folder import LoadedArms
from tasks.score_arms import score_arms
from tasks.score_dataset import score_dataset


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    write_tiny_bundle(folder / "bundle", labels=("blue", "green", "red"))
    write_tiny_bundle(folder / "other", labels=("blue", "green", "red"), seed=3)
    roles = ("cal", "test")
    videos = read_dataset(
        str(write_coloured_set(folder / "set", [("red", "blue")], groups=4, roles=roles)), label_kind="multi"
    ).videos
    models, other = load_bundle(folder / "bundle"), load_bundle(folder / "other")
    store = open_store(str(folder / "out"))
    dataset = score_dataset(
        videos, models, models.manifest.sampling, store, lambda done, total: None, videos_per_part=2
    )
    return models, other, dataset.entries


def _arm(models) -> TrainedArm:
    return TrainedArm(recipe=StudentRecipe(), network=models.student.network, spec=models.manifest.student)


def test_the_bundles_own_student_answers_as_an_arm_what_it_answered_before(scored):
    models, other, entries = scored
    arms = LoadedArms(seeds=(0, 1), networks={"A8": (_arm(models), _arm(other)), "A7": (_arm(models), _arm(other))})
    answers = score_arms(arms, entries, models, lambda done, total: None)
    assert answers.keys() == {"A7", "A8"}
    for role in ("cal", "test"):
        own, strange = (getattr(of_seed, role) for of_seed in answers["A8"])
        cached = [entry.answers for entry in entries if entry.video.split == role]
        assert len(own) == len(strange) == len(cached) == 2
        for mine, before, another in zip(own, cached, strange, strict=True):
            assert np.array_equal(mine.student.logits_NK, before.student.logits_NK)
            assert np.array_equal(mine.student.q_teacher_logit_N, before.student.q_teacher_logit_N)
            assert np.array_equal(mine.teacher_logits_NK, before.teacher_logits_NK)
            assert not np.array_equal(another.student.logits_NK, before.student.logits_NK)


def test_an_arm_sees_pixels_as_it_was_taught_on_them(scored):
    """The network's direct answer, normalised by its own spec and not by that of the bundle's student."""
    models, _, entries = scored
    spec = replace(models.manifest.student, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    arms = LoadedArms(seeds=(0,), networks={"A8": (replace(_arm(models), spec=spec),)})
    answers = score_arms(arms, entries, models, lambda done, total: None)["A8"][0]
    entry = next(entry for entry in entries if entry.video.split == "test")
    with open_video(entry.video.video) as file, torch.inference_mode():
        reader = ClipReader(file, entry.video.video.uri, models.manifest.sampling)
        pixels = np.concatenate([batch.pixels_NTCHW for batch in reader.read_clips(models.student.geometry)])
        direct = models.student.network(normalise(pixels, spec, torch.device("cpu")))
    assert np.array_equal(answers.test[0].student.logits_NK, direct.logits_NK.numpy())
    assert not np.array_equal(answers.test[0].student.logits_NK, entry.answers.student.logits_NK)
