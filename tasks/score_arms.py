"""Let the students of an ablation look at the videos of an evaluation, beside the teacher's answers that are cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cdmodel.ablation import ArmAnswers
from cdmodel.decode import ClipReader
from cdmodel.errors import DecodeError
from cdmodel.models import CascadeModels, StudentScorer
from cdmodel.replay import CachedVideo
from cdmodel.score_entry import ScoredEntry
from cdmodel.scores import StudentLogits
from storage.corpus import open_video
from tasks.arms_folder import LoadedArms


def score_arms(
    arms: LoadedArms, entries: Sequence[ScoredEntry], models: CascadeModels, on_progress: Callable[[int, int], None]
) -> dict[str, tuple[ArmAnswers, ...]]:
    """Return, by the name of each ablation, the answers to the entries of ``cal`` and ``test``, one for each seed.

    Decodes every video once, for all students.

    Raises:
        VideoError: a video that could be read before no longer can.
    """
    # An arm's own spec: it was taught on pixels as that normalises them.
    scorers = {
        id(arm): replace(models.student.taken_by(arm.network), spec=arm.spec)
        for trained in arms.networks.values()
        for arm in trained
    }
    answers: defaultdict[int, dict[str, list[CachedVideo]]] = defaultdict(lambda: {"cal": [], "test": []})
    for done, entry in enumerate(entries, start=1):
        for arm, student in _score_one(entry, scorers, models).items():
            answers[arm][str(entry.video.split)].append(replace(entry.answers, student=student))
        on_progress(done, len(entries))
    return {
        name: tuple(ArmAnswers(cal=answers[id(arm)]["cal"], test=answers[id(arm)]["test"]) for arm in trained)
        for name, trained in arms.networks.items()
    }


def _score_one(
    entry: ScoredEntry, scorers: Mapping[int, StudentScorer], models: CascadeModels
) -> dict[int, StudentLogits]:
    video = entry.video.video
    parts: defaultdict[int, list[StudentLogits]] = defaultdict(list)
    with open_video(video) as file:
        for batch in ClipReader(file, video.uri, models.manifest.sampling).read_clips(models.student.geometry):
            for arm, scorer in scorers.items():
                parts[arm].append(scorer.score(batch.pixels_NTCHW))
    joined = {arm: StudentLogits.concatenate(of_arm) for arm, of_arm in parts.items()}
    if any(len(student.motion_N) != len(entry.spans) for student in joined.values()):
        raise DecodeError(video.uri, "two passes over the video gave different clips")
    return joined
