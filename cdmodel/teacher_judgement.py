"""A teacher, and how far it was right on clips that it was not trained on.

The teacher must not judge itself on what it learned by heart: there it is right on nearly everything, and a student
taught that has learned nothing (research: Corbiere et al. 2019 hold out as well). Three honest ways, see ``Judgement``.
N clips, K labels, M views.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.calibration_fit import fit_temperature
from cdmodel.descent import Keeper, OnProgress, TrainingProgress
from cdmodel.errors import TrainingError
from cdmodel.labels import LabelKind, Truth, is_right, probabilities_of
from cdmodel.models import pick_device
from cdmodel.role_clips import ClipPixels, FitRole, LabeledClips, RoleClips, clips_for_teacher
from cdmodel.targets import ConfidenceTarget, needs_views, targets_from_scores, targets_from_views
from cdmodel.teacher_source import open_teacher
from cdmodel.train_settings import TrainSettings
from cdmodel.training import TeacherLesson, score_teacher, seed_networks, train_teacher

TargetOrigin = Literal["crossfit", "heldout", "given", "insample"]
"""On what the targets were made: out-of-fold clips, a role held out, a teacher that learned none of this data set, or the
very clips it was trained on."""
CLIPS_PER_KEPT_SCORE = 4096
_FIRST_FOLD_STREAM = 100
_VIEW_STREAM = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCheck:
    """Whether the clips that teach confidence are like new ones to the teacher: on both it must err alike.

    A teacher that knows its clips by heart shows here as targets without spread and a share of errors near zero.
    """

    spread_lesson: float
    """Standard deviation of the targets on the clips that confidence is learned on."""
    spread_cal: float
    """The same of the role ``cal``, which no teacher has seen."""
    error_share_lesson: float
    """Share of those clips on which the teacher's best-scored label is not true."""
    error_share_cal: float

    def warnings(self, origin: TargetOrigin) -> tuple[str, ...]:
        """Return what a reader of the bundle's figures has to know, one sentence each."""
        found = []
        if origin == "insample":
            found.append("the targets of q_teacher were made on clips that the teacher was trained on: not for use")
        if _differ(self.spread_lesson, self.spread_cal) or _differ(self.error_share_lesson, self.error_share_cal):
            found.append(
                "the teacher fares differently on the confidence clips than on new ones: it errs on "
                f"{self.error_share_lesson:.1%} of them and on {self.error_share_cal:.1%} of cal, and the targets spread "
                f"by {self.spread_lesson:.3f} and {self.spread_cal:.3f}"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTeacher:
    """A teacher that is ready to score, and the targets of its confidence."""

    network: nn.Module
    spec: ModelSpec
    logits: Mapping[FitRole, NDArray[np.float32]]
    """Its uncalibrated answers to every clip of each role [N, K]."""
    origin: TargetOrigin
    lesson_roles: tuple[FitRole, ...]
    """The roles whose clips, one role after another, have a target."""
    target_N: NDArray[np.float32]
    """0 to 1; for the target ``diffprob`` the teacher's share of the truth."""
    check: TargetCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What a teacher said of some clips, calibrated."""

    probabilities_NK: NDArray[np.float64]
    views_MNK: NDArray[np.float64] | None
    """None where the target asks for one look only."""


def judge_teacher(
    roles: Mapping[FitRole, RoleClips], settings: TrainSettings, on_progress: OnProgress, keeper: Keeper | None = None
) -> JudgedTeacher:
    """Open the teacher, train what of it is to be trained, and judge it on clips it has not seen.

    Raises:
        BundleError: the teacher cannot be opened.
        TrainingError: too few groups for the folds, or a loss is no longer a number.
    """
    origin = origin_of(settings)
    work = _Work(roles=roles, settings=settings, on_progress=on_progress, keeper=keeper)
    network, spec = work.open_teacher()
    lesson_roles: tuple[FitRole, ...] = ("train", "conf") if origin in ("crossfit", "given") else ("conf",)
    taught: tuple[FitRole, ...] = ("train",) if origin == "heldout" else ("train", "conf")
    folds = work.cross_fit() if origin == "crossfit" else None
    if origin != "given":
        work.train(network, spec, work.clips(taught), name="teacher", stream=1)
    logits = work.score_roles(network, spec)
    truth_NK = roles["cal"].clip_truth()
    temperature = fit_temperature(logits["cal"], truth_NK, settings.label_kind)
    cal = _Answers(probabilities_NK=probabilities_of(logits["cal"], settings.label_kind, temperature), views_MNK=None)
    lesson = folds or work.answer(network, spec, lesson_roles, logits, temperature)
    lesson_truth_NK = work.clips(lesson_roles).truth_NK
    return JudgedTeacher(
        network=network.cpu(),
        spec=spec,
        logits=logits,
        origin=origin,
        lesson_roles=lesson_roles,
        target_N=_to_targets(settings.confidence.target, lesson, lesson_truth_NK, settings.label_kind),
        check=_check(settings.confidence.target, lesson, lesson_truth_NK, cal, truth_NK, settings.label_kind),
    )


def origin_of(settings: TrainSettings) -> TargetOrigin:
    """Return on what the targets will be made: nothing has to be held back from a teacher that learns nothing."""
    return "given" if settings.teacher.learn == "nothing" else settings.confidence.origin


def check_folds(groups: Sequence[str], settings: TrainSettings) -> None:
    """Refuse more folds than there are source groups in ``train`` and ``conf``.

    Raises:
        TrainingError: naming the setting.
    """
    found, folds = len(set(groups)), settings.confidence.folds
    if origin_of(settings) == "crossfit" and found < folds:
        raise TrainingError(
            "confidence.folds", f"{folds} folds need as many source groups in train and conf; {found} are there"
        )


def divide_groups(group_N: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each clip [N]: each group wholly in one, the groups dealt out by the seed."""
    fold_N = np.empty(len(group_N), dtype=np.int64)
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(group_N, groups=group_N)):
        fold_N[rows] = fold
    return fold_N


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every step of the judgement needs."""

    roles: Mapping[FitRole, RoleClips]
    settings: TrainSettings
    on_progress: OnProgress
    keeper: Keeper | None

    def clips(self, roles: Sequence[FitRole]) -> LabeledClips:
        return clips_for_teacher(*(self.roles[role] for role in roles))

    def open_teacher(self) -> tuple[nn.Module, ModelSpec]:
        """Return the same network at every call: each fold starts where the teacher itself starts."""
        seed_networks(self.settings.seed)
        allowed = (*BUILTIN_BUILDERS, *self.settings.allowed_builders)
        network, spec = open_teacher(self.settings.teacher, self.roles["train"].truth_VK.shape[1], allowed)
        return network.to(torch.device(pick_device())).eval(), spec

    def train(self, network: nn.Module, spec: ModelSpec, clips: LabeledClips, *, name: str, stream: int) -> None:
        lesson = TeacherLesson(clips=clips, validation=self.clips(["cal"]), name=name, stream=stream)
        train_teacher(network, spec, lesson, self.settings, self.on_progress, self.keeper)

    def cross_fit(self) -> _Answers:
        """Return the answers to every clip of ``train`` and ``conf`` of a teacher that did not see its group."""
        pool, confidence = self.clips(["train", "conf"]), self.settings.confidence
        group_N = np.concatenate([self.roles["train"].clip_groups(), self.roles["conf"].clip_groups()])
        check_folds(list(group_N), self.settings)
        fold_N = divide_groups(group_N, confidence.folds, self.settings.seed)
        logits_LNK = np.empty((self._looks(), len(pool), pool.truth_NK.shape[1]), dtype=np.float32)
        for fold in range(confidence.folds):
            network, spec = self.open_teacher()
            name = f"teacher-fold-{fold}"
            self.train(
                network,
                spec,
                pool.subset(np.flatnonzero(fold_N != fold)),
                name=name,
                stream=_FIRST_FOLD_STREAM + fold,
            )
            rows = np.flatnonzero(fold_N == fold)
            logits_LNK[:, rows] = self._look(network, spec, pool.pixels.subset(rows), name)
        temperature_N = np.empty(len(pool), dtype=np.float32)
        for fold in range(confidence.folds):
            others = fold_N != fold
            temperature_N[~others] = fit_temperature(
                logits_LNK[0][others], pool.truth_NK[others], self.settings.label_kind
            )
        logits_LNK /= temperature_N[None, :, None]
        return self._calibrate(logits_LNK, 1.0)

    def answer(
        self,
        network: nn.Module,
        spec: ModelSpec,
        roles: Sequence[FitRole],
        logits: Mapping[FitRole, NDArray[np.float32]],
        temperature: float,
    ) -> _Answers:
        """Return the answers to the clips of the roles as they are, which are known already, and to each view of them."""
        as_they_are_NK = np.concatenate([logits[role] for role in roles])
        views = self._views(network, spec, self.clips(roles).pixels, "lesson")
        return self._calibrate(np.stack([as_they_are_NK, *views]), temperature)

    def score_roles(self, network: nn.Module, spec: ModelSpec) -> dict[FitRole, NDArray[np.float32]]:
        logits: dict[FitRole, NDArray[np.float32]] = {}
        for done, role in enumerate(self.roles, start=1):
            logits[role] = self._score(network, spec, self.clips([role]).pixels, f"teacher-{role}", view=None)
            self.on_progress(
                TrainingProgress(stage="score", step=done, steps=len(self.roles), loss=None, accuracy=None)
            )
        return logits

    def _looks(self) -> int:
        return 1 + (self.settings.confidence.views if needs_views(self.settings.confidence.target) else 0)

    def _look(self, network: nn.Module, spec: ModelSpec, pixels: ClipPixels, name: str) -> NDArray[np.float32]:
        """Return logits [L, N, K]: of the clips as they are, then of each view the target asks for."""
        as_they_are_NK = self._score(network, spec, pixels, f"{name}-look-0", view=None)
        return np.stack([as_they_are_NK, *self._views(network, spec, pixels, name)])

    def _views(self, network: nn.Module, spec: ModelSpec, pixels: ClipPixels, name: str) -> list[NDArray[np.float32]]:
        looks = range(1, self._looks())
        return [self._score(network, spec, pixels, f"{name}-look-{look}", view=look) for look in looks]

    def _calibrate(self, logits_LNK: NDArray[np.float32], temperature: float) -> _Answers:
        probabilities_LNK = probabilities_of(logits_LNK, self.settings.label_kind, temperature)
        return _Answers(
            probabilities_NK=probabilities_LNK[0],
            views_MNK=probabilities_LNK[1:] if len(probabilities_LNK) > 1 else None,
        )

    def _score(
        self, network: nn.Module, spec: ModelSpec, pixels: ClipPixels, name: str, view: int | None
    ) -> NDArray[np.float32]:
        """Score in pieces that are kept, so that a killed process has lost one of them at most."""
        pieces = []
        for start in range(0, len(pixels), CLIPS_PER_KEPT_SCORE):
            kept_as = f"logits-{name}-{start}.npy"
            content = self.keeper.checkpoints.read(kept_as) if self.keeper else None
            if content is None:
                piece = pixels.subset(np.arange(start, min(start + CLIPS_PER_KEPT_SCORE, len(pixels))))
                shift = None if view is None else (self.settings.seed, _VIEW_STREAM + view)
                scores_NK = score_teacher(network, spec, piece, shift)
                if self.keeper:
                    self.keeper.checkpoints.write(kept_as, _to_bytes(scores_NK))
            else:
                scores_NK = np.load(io.BytesIO(content), allow_pickle=False)
            pieces.append(scores_NK)
        return np.concatenate(pieces)


def _to_targets(target: ConfidenceTarget, answers: _Answers, truth_NK: Truth, kind: LabelKind) -> NDArray[np.float32]:
    match target:
        case "tta_mi" | "vote" | "vote_mode":
            assert answers.views_MNK is not None
            return targets_from_views(target, answers.views_MNK, truth_NK, kind)
        case "diffprob":
            return targets_from_scores("tcp", answers.probabilities_NK, truth_NK, kind)
        case _:
            return targets_from_scores(target, answers.probabilities_NK, truth_NK, kind)


def _check(
    target: ConfidenceTarget,
    lesson: _Answers,
    lesson_truth_NK: Truth,
    cal: _Answers,
    cal_truth_NK: Truth,
    kind: LabelKind,
) -> TargetCheck:
    """Compare one look at each clip; where the target takes several, its probability of the truth stands in for it."""
    looked: ConfidenceTarget = "tcp" if needs_views(target) else target
    return TargetCheck(
        spread_lesson=float(_to_targets(looked, lesson, lesson_truth_NK, kind).std()),
        spread_cal=float(_to_targets(looked, cal, cal_truth_NK, kind).std()),
        error_share_lesson=float(1 - is_right(lesson.probabilities_NK, lesson_truth_NK).mean()),
        error_share_cal=float(1 - is_right(cal.probabilities_NK, cal_truth_NK).mean()),
    )


def _differ(one: float, other: float) -> bool:
    """Tell whether one is more than twice the other; what is small on both sides does not count."""
    low, high = sorted((one, other))
    return high > 0.05 and high > 2 * low


def _to_bytes(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
