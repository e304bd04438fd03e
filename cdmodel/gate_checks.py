"""The gate's arithmetic: each function asks one question of one set and returns a named check.

Everything is paired by video and drawn by group. V videos, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from cdmodel.gate_facts import GateCheck, SetAnswers, SideAnswers
from cdmodel.gate_settings import GateSettings
from cdmodel.intervals import Interval, bootstrap_mean
from cdmodel.metrics import equal_mass_bins
from cdmodel.risk import betting_p, binomial_p, harm_by_group
from cdmodel.scores import BoolArray

Float64Array = NDArray[np.float64]

VIDEOS_PER_BIN = 20
MOST_BINS = 15
CALIBRATION_DRAWS = 400


def not_worse(
    name: str,
    on: str,
    gain_V: Float64Array,
    groups: Sequence[str],
    margin: float,
    settings: GateSettings,
    *,
    what: str,
) -> GateCheck:
    """Ask whether a mean gain is surely above ``-margin``: the lower end of its one-sided interval."""
    gain = _bootstrap(gain_V, groups, settings, settings.confidence)
    passed = gain.low >= -margin
    return GateCheck(
        name=name,
        on=on,
        value=gain.low,
        limit=-margin,
        passed=passed,
        decides=True,
        words=f"{what} {_points(gain.estimate)} points, surely at least {_points(gain.low)}; "
        f"{_points(-margin)} may be lost ({len(gain_V)} videos)",
    )


def better(on: str, gain_V: Float64Array, groups: Sequence[str], settings: GateSettings) -> GateCheck:
    """Ask whether accuracy is likely better: the lower end of its one-sided interval lies above 0."""
    gain = _bootstrap(gain_V, groups, settings, settings.better_confidence)
    return GateCheck(
        name="accuracy_better",
        on=on,
        value=gain.low,
        limit=0.0,
        passed=gain.low > 0,
        decides=False,
        words=f"accuracy {_points(gain.estimate)} points, likely at least {_points(gain.low)}",
    )


def worth_its_price(
    on: str,
    gain_V: Float64Array,
    sides: Sequence[tuple[SideAnswers, SideAnswers]],
    groups: Sequence[str],
    settings: GateSettings,
) -> GateCheck:
    """Ask whether the gain in accuracy likely exceeds what the additional FLOPs should bring, at the price of a dense teacher."""
    price = settings.accuracy_price
    production_V, candidate_V = _flops(sides)
    dense_flops = np.concatenate([candidate.dense_flops_V for _, candidate in sides]).mean()
    more_V = (candidate_V - production_V) / dense_flops
    surplus = _bootstrap(gain_V - price * more_V, groups, settings, settings.better_confidence)
    return GateCheck(
        name="worth_its_price",
        on=on,
        value=surplus.low,
        limit=0.0,
        passed=surplus.low > 0,
        decides=False,
        words=f"costs {more_V.mean():+.1%} of a dense teacher, worth {_points(price * float(more_V.mean()))} points; beyond that "
        f"{_points(surplus.estimate)}, likely at least {_points(surplus.low)}",
    )


def cheaper(
    on: str, sides: Sequence[tuple[SideAnswers, SideAnswers]], groups: Sequence[str], settings: GateSettings
) -> GateCheck:
    """Ask whether the saving is large enough to matter and beyond chance."""
    production_V, candidate_V = _flops(sides)
    saving = 1.0 - float(candidate_V.sum() / production_V.sum())
    # Scaled, so that the mean of the differences is the saving itself.
    spread = _bootstrap((production_V - candidate_V) / production_V.mean(), groups, settings, settings.confidence)
    passed = saving >= settings.min_saving and spread.low > 0
    return GateCheck(
        name="cost_better",
        on=on,
        value=saving,
        limit=settings.min_saving,
        passed=passed,
        decides=False,
        words=f"saves {saving:.1%} of production's FLOPs per video, surely {max(spread.low, -9.99):.1%}; "
        f"{settings.min_saving:.1%} are asked for",
    )


def not_dearer(on: str, sides: Sequence[tuple[SideAnswers, SideAnswers]], settings: GateSettings) -> GateCheck:
    """Ask whether FLOPs per video stay within the margin; they are counted, not drawn, so the estimate decides."""
    production_V, candidate_V = _flops(sides)
    more = float(candidate_V.sum() / production_V.sum()) - 1.0
    return GateCheck(
        name="cost_not_worse",
        on=on,
        value=more,
        limit=settings.cost_margin,
        passed=more <= settings.cost_margin,
        decides=False,
        words=f"costs {more:+.1%} of production's FLOPs per video; {settings.cost_margin:+.1%} is allowed",
    )


def harm_holds(found: SetAnswers, settings: GateSettings) -> GateCheck:
    """Ask whether the harm of the cascade is surely below the limit; groups count alike, as in a bundle's certificate."""
    harmed_V = ~found.candidate.right_V & found.candidate.dense_right_V
    groups = len(set(found.groups))
    losses_G = harm_by_group(harmed_V, found.groups)
    delta = 1 - settings.harm_confidence
    whole = groups == len(found.groups)
    bound = _harm_bound(losses_G, groups, delta, whole=whole)
    return GateCheck(
        name="harm",
        on=found.name,
        value=bound,
        limit=settings.harm_limit,
        passed=_harm_p(losses_G, groups, settings.harm_limit, delta, whole=whole) <= delta,
        decides=True,
        words=f"wrong where its dense teacher is right on {int(harmed_V.sum())} of {len(harmed_V)} videos, surely on at "
        f"most {bound:.1%}; the limit is {settings.harm_limit:.1%}",
    )


def calibration_holds(found: SetAnswers, settings: GateSettings) -> GateCheck:
    """Ask whether confidence in videos means what it says, as far as so many videos can tell.

    The error of a perfectly calibrated model is above 0 where videos are few, so what counts is how far the error lies
    above the mean of simulations in which every answer is right with exactly the confidence it came with. Where even 5 %
    of the simulations lie further above that mean than the limit, the limit is where those 5 % begin.
    """
    excess, chance = _excess_error(found.candidate, settings)
    limit = max(settings.calibration_limit, chance)
    beside = ""
    if found.production is not None:
        production, _ = _excess_error(found.production, settings)
        limit = max(limit, production + settings.calibration_margin)
        beside = f"; production's is {production:.3f}"
    return GateCheck(
        name="calibration",
        on=found.name,
        value=excess,
        limit=limit,
        passed=excess <= limit,
        decides=True,
        words=f"calibration error {excess:.3f} above chance, at most {limit:.3f}{beside}",
    )


def no_class_collapsed(found: SetAnswers, settings: GateSettings) -> tuple[GateCheck, ...]:
    """Ask of every class whether its recall has fallen by much, and by more than chance explains.

    Of the cascade, and of the student alone: a class that the student has never seen, the cascade may still get right,
    for as long as every video of it goes to the teacher. Groups that lost against groups that gained are a fair coin where
    nothing changed (sign test, exact, one-sided), so that videos of one recording count once; Holm's correction over all.
    """
    production, candidate = found.production, found.candidate
    if production is None:
        return ()
    answers = (
        ("class", settings.class_drop, production.right_V, candidate.right_V),
        ("student_class", settings.student_class_drop, production.student_right_V, candidate.student_right_V),
    )
    drops = [
        _drop(name, label, limit, found, before_V, after_V)
        for name, limit, before_V, after_V in answers
        for label in sorted({label for labels in found.labels for label in labels})
    ]
    checks: list[GateCheck] = []
    proven = True
    for place, drop in enumerate(sorted(drops, key=lambda drop: drop.p_value)):
        level = settings.class_alpha / (len(drops) - place)
        proven = proven and drop.p_value <= level
        fall = drop.before - drop.after
        checks.append(
            GateCheck(
                name=f"{drop.name}:{drop.label}",
                on=found.name,
                value=fall,
                limit=drop.limit,
                passed=not (proven and fall >= drop.limit),
                decides=True,
                words=f"recall of {drop.label} from {drop.before:.1%} to {drop.after:.1%} on {drop.videos} videos "
                f"(p = {drop.p_value:.1g}, {level:.1g} is no chance)",
            )
        )
    return tuple(checks)


def accuracy_gain(found: SetAnswers) -> Float64Array:
    """Return 1, 0 or -1 for each video: right where production was wrong, no change, the reverse."""
    assert found.production is not None
    return _difference(found.candidate.right_V, found.production.right_V)


def teacher_gain(found: SetAnswers) -> Float64Array:
    """Return the same of both dense teachers."""
    assert found.production is not None
    return _difference(found.candidate.dense_right_V, found.production.dense_right_V)


def first_checks(found: SetAnswers, settings: GateSettings) -> tuple[GateCheck, ...]:
    """Ask what can be asked of a first bundle: absolute floors."""
    side = found.candidate
    accuracy = _bootstrap(side.right_V.astype(np.float64), found.groups, settings, settings.confidence)
    saving = 1.0 - float(side.flops_V.sum() / side.dense_flops_V.sum())
    return (
        GateCheck(
            name="first_accuracy",
            on=found.name,
            value=accuracy.low,
            limit=settings.first_accuracy,
            passed=accuracy.low >= settings.first_accuracy,
            decides=True,
            words=f"accuracy {accuracy.estimate:.1%}, surely {accuracy.low:.1%}; {settings.first_accuracy:.1%} is asked for",
        ),
        not_worse(
            "first_loss",
            found.name,
            _difference(side.right_V, side.dense_right_V),
            found.groups,
            settings.first_loss,
            settings,
            what="against its own dense teacher",
        ),
        GateCheck(
            name="first_saving",
            on=found.name,
            value=saving,
            limit=settings.first_saving,
            passed=saving >= settings.first_saving,
            decides=True,
            words=f"saves {saving:.1%} of its dense teacher's FLOPs; {settings.first_saving:.1%} are asked for",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drop:
    """How one class fared."""

    name: str
    label: str
    limit: float
    videos: int
    before: float
    """Production's recall."""
    after: float
    p_value: float


def _drop(name: str, label: str, limit: float, found: SetAnswers, before_V: BoolArray, after_V: BoolArray) -> _Drop:
    shows_V = np.array([label in labels for labels in found.labels])
    before_V, after_V = before_V[shows_V], after_V[shows_V]
    _, group_V = np.unique(np.asarray(found.groups)[shows_V], return_inverse=True)
    net_G = np.bincount(group_V, weights=_difference(after_V, before_V))
    lost, gained = int((net_G < 0).sum()), int((net_G > 0).sum())
    return _Drop(
        name=name,
        label=label,
        limit=limit,
        videos=int(shows_V.sum()),
        before=float(before_V.mean()),
        after=float(after_V.mean()),
        p_value=float(binom.sf(lost - 1, lost + gained, 0.5)),
    )


def _harm_p(losses_G: tuple[float, ...], groups: int, epsilon: float, delta: float, *, whole: bool) -> float:
    if whole:
        return binomial_p(len(losses_G), groups, epsilon)
    return betting_p(losses_G, groups, epsilon, delta=delta)


def _harm_bound(losses_G: tuple[float, ...], groups: int, delta: float, *, whole: bool) -> float:
    """Return the smallest harm that is rejected, to four digits; 1 where none is."""
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _harm_p(losses_G, groups, middle, delta, whole=whole) <= delta:
            high = middle
        else:
            low = middle
    return high


def _excess_error(side: SideAnswers, settings: GateSettings) -> tuple[float, float]:
    """Return how far the error lies above that of a perfectly calibrated model, and where 5 % of such models begin."""
    bins = min(max(len(side.confidence_V) // VIDEOS_PER_BIN, 1), MOST_BINS)
    confidence_V = side.confidence_V
    member_VB = np.eye(bins)[equal_mass_bins(confidence_V, bins=bins)]
    said_B = confidence_V @ member_VB
    random = np.random.default_rng(settings.seed)
    chance_DV = random.random((CALIBRATION_DRAWS, len(confidence_V)), dtype=np.float32) < confidence_V
    error_D = np.abs(np.vstack([side.right_V, chance_DV]) @ member_VB - said_B).sum(axis=1) / len(confidence_V)
    mean = float(error_D[1:].mean())
    return float(error_D[0]) - mean, float(np.quantile(error_D[1:], 0.95)) - mean


def _bootstrap(values_V: Float64Array, groups: Sequence[str], settings: GateSettings, confidence: float) -> Interval:
    """Return the interval whose lower end is a one-sided bound of that confidence."""
    return bootstrap_mean(values_V, groups, draws=settings.draws, seed=settings.seed, level=2 * confidence - 1)


def _flops(sides: Sequence[tuple[SideAnswers, SideAnswers]]) -> tuple[Float64Array, Float64Array]:
    """Return production's and the candidate's FLOPs of each video, all sets behind one another."""
    return (
        np.concatenate([production.flops_V for production, _ in sides]),
        np.concatenate([candidate.flops_V for _, candidate in sides]),
    )


def _difference(one_V: BoolArray, other_V: BoolArray) -> Float64Array:
    return np.asarray(one_V.astype(np.float64) - other_V)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
