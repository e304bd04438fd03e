"""The gate: whether a retrained bundle takes the place of the one in production. Facts in, decision out.

It is promoted if nothing got worse (accuracy on every set, its teacher, calibration, harm, every single class) and it is
cheaper, or more accurate without being dearer, or more accurate by more than its price. Else it is kept, with the reason.
What cannot be computed is refused: no answer is never a yes. scipy is loaded here, so nothing on the way to a label may
import this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import numpy as np

from cdmodel.gate_checks import (
    accuracy_gain,
    better,
    calibration_holds,
    cheaper,
    first_checks,
    harm_holds,
    no_class_collapsed,
    not_dearer,
    not_worse,
    teacher_gain,
    worth_its_price,
)
from cdmodel.gate_facts import (
    BundleFacts,
    GateCheck,
    GateDecision,
    Route,
    SetAnswers,
    SetSummary,
    SideAnswers,
    Verdict,
)
from cdmodel.gate_settings import GateSettings

__all__ = ["BundleFacts", "GateCheck", "GateDecision", "GateSettings", "SetAnswers", "SideAnswers", "decide"]

ALL_SETS = "both"
REASONS_TOLD = 4


def decide(
    candidate: BundleFacts, production: BundleFacts | None, sets: Sequence[SetAnswers], settings: GateSettings
) -> GateDecision:
    """Return whether the candidate is promoted, kept, or cannot be judged, and every check on the way.

    ``sets`` holds the benchmark, the audits, or both, with answers of production wherever there is one.
    """
    decision = _undecided(candidate, production)
    if cannot := compare_bundles(candidate, production):
        return replace(decision, reason=cannot)
    kept = [_without_dropped(found, decision.dropped_labels, settings) for found in sets]
    summaries = tuple(_summarize(before, after) for before, after in zip(sets, kept, strict=True))
    decision = replace(decision, sets=summaries)
    judged = [
        found for found, summary in zip(kept, summaries, strict=True) if not _left_out(summary, summaries, settings)
    ]
    if cannot := _cannot_judge(candidate, judged, summaries, settings):
        return replace(decision, reason=cannot)
    taught = _check_taught(candidate, production, settings)
    if production is None:
        return _judge_first(decision, taught, judged, settings)
    return _judge(decision, taught, judged, settings)


def compare_bundles(candidate: BundleFacts, production: BundleFacts | None) -> str | None:
    """Return why two bundles cannot be compared at all, whatever they answer; None if they can."""
    if production is None:
        return None
    if candidate.label_kind != production.label_kind:
        return f"the candidate gives {_kind(candidate)} and production {_kind(production)}: they answer different questions"
    if not set(candidate.labels) & set(production.labels):
        return "the candidate and production have no label in common"
    return None


def _undecided(candidate: BundleFacts, production: BundleFacts | None) -> GateDecision:
    known = () if production is None else production.labels
    return GateDecision(
        verdict="refuse",
        route=None,
        reason="",
        candidate=candidate.model_version,
        production=None if production is None else production.model_version,
        new_labels=() if production is None else tuple(sorted(set(candidate.labels) - set(known))),
        dropped_labels=tuple(sorted(set(known) - set(candidate.labels))),
    )


def _judge(
    decision: GateDecision, taught: GateCheck, sets: Sequence[SetAnswers], settings: GateSettings
) -> GateDecision:
    sides = [(found.production, found.candidate) for found in sets if found.production is not None]
    gains = [accuracy_gain(found) for found in sets]
    gain_V = np.concatenate(gains)
    groups = [group for found in sets for group in found.groups]
    betters = [better(found.name, gain, found.groups, settings) for found, gain in zip(sets, gains, strict=True)]
    pooled = better(ALL_SETS, gain_V, groups, settings)
    main = _main_set(sets)
    saving, cost = cheaper(ALL_SETS, sides, groups, settings), not_dearer(ALL_SETS, sides, settings)
    worths = [
        worth_its_price(found.name, gain, [pair], found.groups, settings)
        for found, gain, pair in zip(sets, gains, sides, strict=True)
    ]
    worth = worth_its_price(ALL_SETS, gain_V, sides, groups, settings)
    checks = (
        taught,
        *_check_labels(decision, settings),
        *(_check_accuracy(found, settings) for found in sets),
        _check_teacher(main, settings),
        calibration_holds(main, settings),
        harm_holds(main, settings),
        *no_class_collapsed(main, settings),
        saving,
        cost,
        *betters,
        pooled,
        *worths,
        worth,
    )
    gained = _is_better(betters, pooled, settings) and float(gain_V.mean()) > 0
    decision = replace(decision, checks=checks)
    if stopped := _stopped(checks):
        return _ended(decision, "keep", None, stopped)
    if saving.passed:
        return _ended(decision, "promote", "cheaper", f"as accurate as production, and {saving.words}")
    if gained and cost.passed:
        return _ended(decision, "promote", "better", f"{pooled.words}; {cost.words}")
    if gained and _is_better(worths, worth, settings):
        told = "; ".join(f"{check.on}: {check.words}" for check in (*worths, worth) if check.passed)
        return _ended(decision, "promote", "worth", f"{pooled.words}; {told}")
    if gained:
        return _ended(decision, "keep", None, f"more accurate, but dearer: {pooled.words}; {cost.words}")
    return _ended(decision, "keep", None, f"neither cheaper nor more accurate: {saving.words}; {pooled.words}")


def _judge_first(
    decision: GateDecision, taught: GateCheck, sets: Sequence[SetAnswers], settings: GateSettings
) -> GateDecision:
    main = _main_set(sets)
    checks = (taught, *first_checks(main, settings), calibration_holds(main, settings), harm_holds(main, settings))
    decision = replace(decision, checks=checks)
    if stopped := _stopped(checks):
        return _ended(decision, "keep", None, stopped)
    return _ended(decision, "promote", "first", "nothing is in production, and every floor holds")


def _main_set(sets: Sequence[SetAnswers]) -> SetAnswers:
    """Return the benchmark, whose labels are true; the audits, whose labels are the teacher's, where there is none."""
    return min(sets, key=lambda found: found.name != "benchmark")


def _check_accuracy(found: SetAnswers, settings: GateSettings) -> GateCheck:
    margin = settings.accuracy_margin if found.name == "benchmark" else settings.audit_margin
    what = "accuracy" if found.name == "benchmark" else "agreement with the teacher"
    return not_worse("accuracy_not_worse", found.name, accuracy_gain(found), found.groups, margin, settings, what=what)


def _check_teacher(found: SetAnswers, settings: GateSettings) -> GateCheck:
    gain_V = teacher_gain(found)
    return not_worse(
        "teacher_not_worse",
        found.name,
        gain_V,
        found.groups,
        settings.teacher_margin,
        settings,
        what="accuracy of the dense teacher",
    )


def _check_taught(candidate: BundleFacts, production: BundleFacts | None, settings: GateSettings) -> GateCheck:
    """Ask whether training has shown every label: where the teacher answers for one, the videos do not tell."""
    allowed = {*settings.untaught_labels, *(() if production is None else production.untaught)}
    missed = sorted(set(candidate.untaught) - allowed)
    return GateCheck(
        name="labels_taught",
        on=ALL_SETS,
        value=float(len(missed)),
        limit=0.0,
        passed=not missed,
        decides=True,
        words=f"no training video showed {', '.join(missed)}" if missed else "training has shown every label it must",
    )


def _check_labels(decision: GateDecision, settings: GateSettings) -> tuple[GateCheck, ...]:
    """Tell which labels come and go; one that goes without leave stops the candidate."""
    if not decision.dropped_labels and not decision.new_labels:
        return ()
    forbidden = sorted(set(decision.dropped_labels) - set(settings.dropped_labels))
    changes = (("new", decision.new_labels), ("dropped", decision.dropped_labels))
    told = [f"{kind}: {', '.join(names)}" for kind, names in changes if names]
    return (
        GateCheck(
            name="labels",
            on=ALL_SETS,
            value=float(len(forbidden)),
            limit=0.0,
            passed=not forbidden,
            decides=True,
            words="; ".join(told)
            + (f" (list {', '.join(forbidden)} in gate.dropped_labels if that is meant)" if forbidden else ""),
        ),
    )


def _is_better(betters: Sequence[GateCheck], pooled: GateCheck, settings: GateSettings) -> bool:
    match settings.better:
        case "any_set":
            return any(check.passed for check in betters)
        case "every_set":
            return all(check.passed for check in betters)
        case "pooled":
            return pooled.passed
        case _:
            assert_never(settings.better)


def _stopped(checks: Sequence[GateCheck]) -> str | None:
    """Return what stops a candidate, or None; of many checks the first few, the rest stands in the decision."""
    failed = [check for check in checks if check.decides and not check.passed]
    told = [f"{check.name} ({check.on}): {check.words}" for check in failed[:REASONS_TOLD]]
    more = [f"and {len(failed) - REASONS_TOLD} more checks"] if len(failed) > REASONS_TOLD else []
    return "; ".join([*told, *more]) or None


def _ended(decision: GateDecision, verdict: Verdict, route: Route | None, reason: str) -> GateDecision:
    return replace(decision, verdict=verdict, route=route, reason=reason)


def _without_dropped(found: SetAnswers, dropped: Sequence[str], settings: GateSettings) -> SetAnswers:
    """Leave out the videos that show nothing but labels which the candidate may lack."""
    allowed = set(dropped) & set(settings.dropped_labels)
    kept_V = np.array([not set(labels) <= allowed for labels in found.labels], dtype=np.bool_)
    if kept_V.all():
        return found
    return replace(
        found,
        groups=tuple(group for group, kept in zip(found.groups, kept_V, strict=True) if kept),
        labels=tuple(labels for labels, kept in zip(found.labels, kept_V, strict=True) if kept),
        candidate=_select(found.candidate, kept_V),
        production=None if found.production is None else _select(found.production, kept_V),
    )


def _select(side: SideAnswers, kept_V: np.ndarray) -> SideAnswers:
    return SideAnswers(**{name: getattr(side, name)[kept_V] for name in SideAnswers.__slots__})


def _summarize(before: SetAnswers, after: SetAnswers) -> SetSummary:
    return SetSummary(
        name=before.name,
        videos=len(after.groups),
        groups=len(set(after.groups)),
        videos_unreadable=before.videos_unreadable,
        videos_dropped=len(before.groups) - len(after.groups),
    )


def _left_out(summary: SetSummary, summaries: Sequence[SetSummary], settings: GateSettings) -> bool:
    """Whether there are too few audits to look at, and a benchmark to go by."""
    has_benchmark = any(other.name == "benchmark" for other in summaries)
    few = summary.groups < settings.min_groups
    return summary.name == "audits" and few and has_benchmark and settings.audits == "if_enough"


def _cannot_judge(
    candidate: BundleFacts, sets: Sequence[SetAnswers], summaries: Sequence[SetSummary], settings: GateSettings
) -> str | None:
    if not summaries:
        return "there is neither a benchmark nor an audit: nothing to judge the candidate by"
    if settings.audits == "required" and not any(summary.name == "audits" for summary in summaries):
        return 'there are no audits, and gate.audits = "required"'
    for summary in summaries:
        asked = summary.videos + summary.videos_dropped + summary.videos_unreadable
        if summary.videos_unreadable > settings.unreadable_limit * asked:
            return (
                f"{summary.name}: {summary.videos_unreadable} of {asked} videos cannot be read; "
                f"{settings.unreadable_limit:.0%} may be"
            )
    return next((reason for found in sets if (reason := _cannot_use(candidate, found, settings))), None)


def _cannot_use(candidate: BundleFacts, found: SetAnswers, settings: GateSettings) -> str | None:
    groups = len(set(found.groups))
    if groups < settings.min_groups:
        return f"{found.name}: {groups} groups, and the gate needs {settings.min_groups} (gate.min_groups)"
    if not {label for labels in found.labels for label in labels} & set(candidate.labels):
        return f"{found.name}: the candidate knows none of its labels"
    for side, name in ((found.candidate, "the candidate"), (found.production, "production")):
        if side is not None and not _is_sound(side):
            return f"{found.name}: {name} gave an answer or a cost that is not a number"
    return None


def _is_sound(side: SideAnswers) -> bool:
    costs = (side.flops_V, side.dense_flops_V)
    figures = (side.confidence_V, side.dense_confidence_V, *costs)
    return all(bool(np.isfinite(values_V).all()) for values_V in figures) and all(
        (cost_V > 0).all() for cost_V in costs
    )


def _kind(bundle: BundleFacts) -> str:
    return "each video one label" if bundle.label_kind == "single" else "each video any number of labels"
