"""Evaluate a bundle on labeled videos: score them once, replay every policy, write the document, tables and plots.

Settings are chosen on ``cal`` and measured on ``test``. The scores are kept beside the results, so that another
evaluation of the same bundle and videos runs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from cdmodel.ablation import ArmAnswers
from cdmodel.bundle import BundleManifest, training_seed
from cdmodel.errors import OutputError, SourceError
from cdmodel.evaluation import EvaluationSettings, OnReplay, Subject, evaluate, keep_quiet
from cdmodel.evaluation_details import compare_ladders, describe_test
from cdmodel.models import CascadeModels, load_bundle, pick_device
from cdmodel.replay import ClipFlops
from cdmodel.score_entry import UnreadableVideo
from cdmodel.splits import assign_roles
from cdmodel.types import LabeledVideo
from storage.bundles import local_bundle
from storage.filesystem import STAGING, Store, open_store
from storage.output import check_writable
from tasks.arms_folder import load_arms
from tasks.evaluation_document import Report, to_document, to_text
from tasks.evaluation_settings import EvaluateSettings, EvaluationProgress
from tasks.evaluation_tables import to_tables
from tasks.plot_evaluation import plot_evaluation
from tasks.score_arms import score_arms
from tasks.score_dataset import SCORES, ScoredDataset, score_dataset

DOCUMENT, TABLES, PLOTS = "evaluation.json", "tables.md", "plots"
FRESH_CAL_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedBundle:
    """What was found and written."""

    out: str
    document: Mapping[str, JsonValue]
    """As in ``evaluation.json``."""
    report: Report
    unreadable: tuple[UnreadableVideo, ...]


OnEvaluation = Callable[[EvaluationProgress], None]


def evaluate_bundle(
    dataset: str,
    videos: Sequence[LabeledVideo],
    bundle: str | None,
    out: str,
    settings: EvaluateSettings,
    on_progress: OnEvaluation,
    *,
    arms: Path | None = None,
) -> EvaluatedBundle:
    """Score, replay and write ``evaluation.json``, ``tables.md``, ``plots/`` and ``scores/`` to ``out``.

    Args:
        dataset: names the videos in errors.
        videos: of any roles; those of ``cal`` and ``test`` are used.
        bundle: folder or URL; None is the demo bundle.
        out: a new folder or URL, or one that an evaluation has written to before.
        settings: how.
        on_progress: called as each stage goes on.
        arms: folder of students trained for the ablations (``cdlabel ablate``); without it there are none.

    Raises:
        SourceError: a role is missing or too small, or a label is unknown to the bundle.
        BundleError: the bundle cannot be loaded.
        OutputError: ``out`` holds something else or cannot be written.
    """
    models = load_bundle(local_bundle(bundle), pick_device(), settings.allowed_builders)
    trained = None if arms is None else load_arms(arms, models)
    chosen = choose_videos(dataset, videos, models.manifest, settings)
    store = _check_out(out)
    scored = score_dataset(
        chosen,
        models,
        models.manifest.sampling,
        store,
        lambda done, total: on_progress(EvaluationProgress(stage="score", done=done, total=total)),
        videos_per_part=settings.videos_per_part,
    )
    answers: Mapping[str, Sequence[ArmAnswers]] = {}
    if trained is not None:
        answers = score_arms(
            trained,
            scored.entries,
            models,
            lambda done, total: on_progress(EvaluationProgress(stage="ablate", done=done, total=total)),
        )
    report = build_report(
        dataset,
        chosen,
        scored,
        subject_of(models),
        answers,
        EvaluationSettings(epsilon=settings.epsilon, delta=settings.delta, seed=settings.seed),
        lambda done, total: on_progress(EvaluationProgress(stage="replay", done=done, total=total)),
    )
    document = to_document(report)
    _write(store, DOCUMENT, to_text(document).encode())
    _write(store, TABLES, to_tables(report).encode())
    plots = plot_evaluation(report)
    for done, (name, data) in enumerate(plots.items(), start=1):
        _write(store, f"{PLOTS}/{name}", data)
        on_progress(EvaluationProgress(stage="plot", done=done, total=len(plots)))
    return EvaluatedBundle(out=store.root, document=document, report=report, unreadable=scored.unreadable)


def choose_videos(
    dataset: str, videos: Sequence[LabeledVideo], manifest: BundleManifest, settings: EvaluateSettings
) -> tuple[LabeledVideo, ...]:
    """Return the videos of ``cal`` and ``test``, each with its role.

    Raises:
        SourceError: a role is missing, ``test`` has a single group, or a label is unknown to the bundle and the settings
            refuse that, or all are.
    """
    fresh = settings.roles == "fresh"
    divided = _divide_fresh(videos, settings.seed) if fresh else assign_roles(videos, training_seed(manifest))
    chosen = tuple(video for video in divided if video.split in ("cal", "test"))
    _check_roles(dataset, chosen)
    unknown = {label for video in chosen for label in video.labels} - set(manifest.labels)
    if unknown and settings.unknown_labels == "refuse":
        raise SourceError(
            dataset,
            f'the bundle does not know the labels {_listed(unknown)}; unknown_labels = "wrong" counts them as wrong',
        )
    for role in ("cal", "test"):
        if not any(label in manifest.labels for video in chosen if video.split == role for label in video.labels):
            raise SourceError(dataset, f"the bundle knows none of the labels of {role}")
    if manifest.label_kind == "single" and any(len(video.labels) > 1 for video in chosen):
        raise SourceError(dataset, "some videos have several labels, but the bundle gives each exactly one")
    return chosen


def subject_of(models: CascadeModels) -> Subject:
    """Return what a replay needs of a bundle."""
    manifest = models.manifest
    return Subject(
        model_version=models.model_version,
        label_kind=manifest.label_kind,
        calibration=manifest.calibration,
        policy=manifest.default_policy,
        aggregation=manifest.default_aggregation,
        flops=ClipFlops(student=models.student.flops_per_clip, teacher=models.teacher.flops_per_clip),
        risk=manifest.risk,
    )


def build_report(
    dataset: str,
    videos: Sequence[LabeledVideo],
    scored: ScoredDataset,
    subject: Subject,
    arms: Mapping[str, Sequence[ArmAnswers]],
    settings: EvaluationSettings,
    on_replay: OnReplay = keep_quiet,
) -> Report:
    """Replay everything on scored videos; ``on_replay`` is told how many settings are done, and of how many.

    Raises:
        SourceError: of a role too little could be read.
    """
    cal = tuple(entry for entry in scored.entries if entry.video.split == "cal")
    test = tuple(entry for entry in scored.entries if entry.video.split == "test")
    _check_roles(dataset, [entry.video for entry in (*cal, *test)], "can be read")
    answers = [entry.answers for entry in test]
    evaluation = evaluate([entry.answers for entry in cal], answers, subject, arms, settings, on_replay)
    return Report(
        model_version=subject.model_version,
        policy=subject.policy.kind,
        aggregation=subject.aggregation.kind,
        settings=settings,
        videos=tuple(videos),
        cal=cal,
        test=test,
        unreadable=scored.unreadable,
        labels_unknown=tuple(
            sorted({label for video in videos for label in video.labels} - set(scored.context.labels))
        ),
        evaluation=evaluation,
        details=describe_test(answers, subject, scored.context.labels),
        comparisons=compare_ladders(
            (*evaluation.policies, *evaluation.baselines),
            dense_flops=evaluation.dense_teacher.flops_per_video,
            student_accuracy=evaluation.dense_student.accuracy,
            teacher_accuracy=evaluation.dense_teacher.accuracy,
        ),
    )


def _divide_fresh(videos: Sequence[LabeledVideo], seed: int) -> tuple[LabeledVideo, ...]:
    groups = sorted({video.group for video in videos})
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    for_cal = {groups[place] for place in order[: max(round(FRESH_CAL_SHARE * len(groups)), 1)]}
    return tuple(replace(video, split="cal" if video.group in for_cal else "test") for video in videos)


def _check_roles(dataset: str, videos: Sequence[LabeledVideo], how: str = "is there") -> None:
    for role in ("cal", "test"):
        if not any(video.split == role for video in videos):
            raise SourceError(
                dataset, f'no video of the role {role} {how}; roles = "fresh" divides videos that are new to the bundle'
            )
    if len({video.group for video in videos if video.split == "test"}) < 2:
        raise SourceError(dataset, "the videos of test form one group; intervals need at least two")


def _check_out(out: str) -> Store:
    store = open_store(out)
    check_writable(store)
    foreign = sorted(set(store.children()) - {DOCUMENT, TABLES, PLOTS, SCORES, STAGING})
    if foreign:
        raise OutputError(store.root, f"holds something else ({foreign[0]}); name a new folder")
    return store


def _write(store: Store, name: str, data: bytes) -> None:
    """Write a result over that of an earlier evaluation; only scores are never changed."""
    store.delete(name)
    if not store.create(name, data):
        raise OutputError(store.uri_of(name), "is being written by another evaluation")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:10]) + (f" and {len(ordered) - 10} more" if len(ordered) > 10 else "")
