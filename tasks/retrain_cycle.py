"""One turn of the learning loop: what was labeled becomes examples, examples a candidate, and the gate says what becomes of it.

Every step leaves its result in the registry's record of the cycle and does nothing where it stands already; so a turn that
was killed is gone on with by the same call.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from cdmodel.bundle import read_manifest
from cdmodel.descent import OnProgress
from cdmodel.errors import LabelingError, RegistryConflict, RegistryError, SourceError, TrainingError, UsageError
from cdmodel.gate_facts import GateDecision
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings
from storage.alias_history import AliasMove
from storage.bundles import local_bundle
from storage.corpus import CorpusRules
from storage.cycle_store import (
    AUDITS,
    EXAMPLES,
    Candidate,
    CycleBegun,
    CycleOutcome,
    CycleStore,
    Ending,
    cycle_store,
    newest_cycles,
)
from storage.dataset import read_dataset
from storage.registry import Registry, open_registry
from tasks.collect_examples import CollectRequest, collect_examples
from tasks.judge_candidate import GateSets, OnGate, judge_candidate
from tasks.retrain_request import RetrainRequest, RetrainSettings
from tasks.train_bundle import train_bundle

CANDIDATE_ALIAS = "candidate"
SCORES = "scores"
"""Folder of the registry with what bundles answered to videos of the gate."""
WARM_STEPS, WARM_LEARNING_RATE = 800, 0.001
"""Of a student that starts from the one in production: at the rate of a new one it forgets first what it knew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A cycle that is under way."""

    request: RetrainRequest
    record: CycleStore
    begun: CycleBegun
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CoolingDown:
    """No cycle was begun, since the last one began a short time ago."""

    last_began_at: datetime
    until: datetime


_SETTINGS = TypeAdapter(RetrainSettings)


def open_cycle(request: RetrainRequest, now: datetime, *, obeys_cooldown: bool = False) -> Cycle | CoolingDown:
    """Go on with the cycle that has not ended, or begin one.

    One that was begun with other settings, or for another production bundle, is ended as abandoned.

    Raises:
        RegistryError: there is no such registry, or it has no production bundle yet.
        SourceError: the benchmark cannot be read.
    """
    registry = open_registry(request.settings.registry)
    production = _production(registry, request.settings)
    if request.settings.benchmark is not None:
        read_dataset(
            request.settings.benchmark,
            request.corpus,
            label_kind=registry.manifest(production.model_version).label_kind,
        )
    digest = _settings_digest(request)
    newest = next(newest_cycles(registry.store), None)
    if newest is not None:
        begun = newest.begun()
        if newest.outcome() is None:
            if begun.settings_sha256 == digest and _still_stands(registry, newest, begun):
                return Cycle(request=request, record=newest, begun=begun, resumed=True)
            newest.end(CycleOutcome(ending="abandoned", reason=_why_abandoned(begun, digest), ended_at=now))
        until = begun.begun_at + timedelta(hours=request.settings.cooldown_hours)
        if obeys_cooldown and now < until:
            return CoolingDown(last_began_at=begun.begun_at, until=until)
    begun = CycleBegun(
        cycle_id=f"{now:%Y%m%dT%H%M%S}-{digest[:6]}",
        begun_at=now,
        out=request.out,
        alias=request.settings.alias,
        production=production.model_version,
        production_move=production.number,
        settings_sha256=digest,
        settings=_SETTINGS.dump_python(request.settings, mode="json"),
        reason=request.reason,
    )
    record = cycle_store(registry.store, begun.cycle_id)
    record.begin(begun)
    return Cycle(request=request, record=record, begun=record.begun(), resumed=False)


def collect(cycle: Cycle) -> None:
    """Gather the examples and the audits that nothing learns from.

    Raises:
        UsageError: there is nothing to learn from, or a correction is wrong; the cycle is ended with that reason.
    """
    registry, record = open_registry(cycle.request.settings.registry), cycle.record
    if record.is_collected():
        return
    manifest = read_manifest(local_bundle(registry.bundle_uri(cycle.begun.production)))
    request = CollectRequest(
        out=cycle.request.out,
        settings=cycle.request.settings.collect,
        labels=manifest.labels,
        label_kind=manifest.label_kind,
        benchmark=cycle.request.settings.benchmark,
        corpus=cycle.request.corpus,
    )
    with _ended_by(record, UsageError):
        collect_examples(request, record.store, cycle.begun.begun_at)


def train(cycle: Cycle, work: Path, on_progress: OnProgress) -> Candidate:
    """Train the candidate and add it to the registry; what a killed process left in ``work`` is gone on with.

    Raises:
        SourceError, TrainingError: nothing can be learned from these examples; the cycle is ended with that reason.
        BundleError, OutputError, StorageError: as ``train_bundle`` and ``Registry.add``; the cycle can be gone on with.
    """
    record, settings = cycle.record, cycle.request.settings
    if (standing := record.candidate()) is not None:
        return standing
    registry = open_registry(settings.registry)
    production = local_bundle(registry.bundle_uri(cycle.begun.production))
    folder = work / cycle.begun.cycle_id
    if not folder.exists():
        with _ended_by(record, SourceError, TrainingError):
            train_bundle(
                record.store.uri_of(EXAMPLES),
                str(folder),
                training_settings(cycle.request, production),
                on_progress,
                corpus=_rules(cycle),
            )
    manifest = read_manifest(folder)
    added = registry.add(folder)
    provenance = manifest.provenance
    candidate = record.keep_candidate(
        Candidate(
            model_version=added.model_version,
            labels=manifest.labels,
            trained_at=datetime.now(UTC),
            metrics=manifest.metrics,
            videos_used=_count(provenance.get("videos")),
            videos_skipped=_count(provenance.get("videos_skipped")),
        )
    )
    shutil.rmtree(folder)
    return candidate


def judge(cycle: Cycle, candidate: Candidate, on_progress: OnGate) -> GateDecision:
    """Compare the candidate with what is in production. Scores are kept for the cycles to come.

    Raises: as ``judge_candidate``.
    """
    registry, settings = open_registry(cycle.request.settings.registry), cycle.request.settings
    record = cycle.record.store
    return judge_candidate(
        local_bundle(registry.bundle_uri(candidate.model_version)),
        local_bundle(registry.bundle_uri(cycle.begun.production)),
        GateSets(benchmark=settings.benchmark, audits=record.uri_of(AUDITS) if record.exists(AUDITS) else None),
        settings.gate,
        record,
        on_progress,
        corpus=_rules(cycle),
        allowed_builders=cycle.request.allowed_builders,
        scores=registry.store.child(SCORES),
    )


def promote(cycle: Cycle, candidate: Candidate, decision: GateDecision, by: str, now: datetime) -> CycleOutcome:
    """Move the aliases as the gate says, and say how the cycle ends. Production that moved meanwhile is left alone."""
    registry = open_registry(cycle.request.settings.registry)
    metrics: dict[str, JsonValue] = {f"{check.name} ({check.on})": check.value for check in decision.checks}
    _point(registry, CANDIDATE_ALIAS, candidate.model_version, by, f"cycle {cycle.begun.cycle_id}", metrics)
    if not decision.promoted:
        ending: Ending = "refused" if decision.verdict == "refuse" else "kept"
        return CycleOutcome(ending=ending, reason=decision.reason, ended_at=now)
    alias, seen = cycle.begun.alias, cycle.begun.production_move
    try:
        registry.move(alias, candidate.model_version, after=seen, moved_by=by, reason=decision.reason, metrics=metrics)
    except RegistryConflict as conflict:
        if not _is_ours(registry, cycle.begun, candidate):
            reason = f"{alias} has moved since the cycle began: {conflict.reason}"
            return CycleOutcome(ending="refused", reason=reason, ended_at=now)
    return CycleOutcome(ending="promoted", reason=decision.reason, ended_at=now)


def training_settings(request: RetrainRequest, production: Path) -> TrainSettings:
    """Return how a candidate is trained that takes the place of this bundle."""
    settings, manifest = request.settings, read_manifest(production)
    if settings.train is not None:
        chosen = settings.train
    else:
        student = StudentSettings(
            builder=manifest.student.builder,
            arguments=manifest.student.arguments,
            geometry=manifest.student.geometry,
        )
        chosen = TrainSettings(
            sampling=manifest.sampling,
            label_kind=manifest.label_kind,
            teacher=TeacherSettings(weights=str(production), learn="nothing"),
            student=replace(student, steps=WARM_STEPS, learning_rate=WARM_LEARNING_RATE)
            if settings.warm_start
            else student,
            allowed_builders=request.allowed_builders,
            no_dearer_than=str(production) if settings.keep_cost else None,
        )
    if settings.warm_start and chosen.student.start is None:
        chosen = replace(chosen, student=replace(chosen.student, start=str(production)))
    return chosen


@contextmanager
def _ended_by(record: CycleStore, *errors: type[LabelingError]) -> Iterator[None]:
    """End the cycle with what is raised: going on with it would raise it again."""
    try:
        yield
    except errors as error:
        record.end(CycleOutcome(ending="refused", reason=str(error), ended_at=datetime.now(UTC)))
        raise


def _rules(cycle: Cycle) -> CorpusRules:
    """Return the rules under which a cycle's own manifests are read: they name videos that were labeled, wherever those lie."""
    rules = cycle.request.corpus
    return replace(rules, roots=(*rules.roots, *cycle.record.roots()))


def _production(registry: Registry, settings: RetrainSettings) -> AliasMove:
    current = registry.current(settings.alias)
    if current is None:
        raise RegistryError(
            settings.registry,
            f"has no {settings.alias} yet: name the first one with cdlabel models promote {settings.registry} BUNDLE "
            f"--alias {settings.alias}",
        )
    return current


def _still_stands(registry: Registry, record: CycleStore, begun: CycleBegun) -> bool:
    """Tell whether nobody but this cycle itself has moved production since it began."""
    current = registry.current(begun.alias)
    if current is None or current.number == begun.production_move:
        return current is not None
    candidate = record.candidate()
    return candidate is not None and _is_ours(registry, begun, candidate)


def _is_ours(registry: Registry, begun: CycleBegun, candidate: Candidate) -> bool:
    """Tell whether the move after the one that the cycle saw was its own, before it was killed."""
    moves = {move.number: move for move in registry.history(begun.alias)}
    ours = moves.get(begun.production_move + 1)
    return ours is not None and ours.model_version == candidate.model_version


def _point(
    registry: Registry, alias: str, model_version: str, by: str, reason: str, metrics: dict[str, JsonValue]
) -> None:
    """Move an alias that nobody disputes; one that points there already stays."""
    current = registry.current(alias)
    if current is None or current.model_version != model_version:
        after = current.number if current else 0
        with suppress(RegistryConflict):  # another cycle's candidate is newer
            registry.move(alias, model_version, after=after, moved_by=by, reason=reason, metrics=metrics)


def _settings_digest(request: RetrainRequest) -> str:
    facts = {
        "out": request.out,
        "settings": _SETTINGS.dump_python(request.settings, mode="json"),
        "roots": list(request.corpus.roots),
        "builders": list(request.allowed_builders),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _why_abandoned(begun: CycleBegun, digest: str) -> str:
    if begun.settings_sha256 != digest:
        return "a cycle with other settings was begun"
    return f"{begun.alias} has moved since it began"


def _count(found: JsonValue) -> int:
    match found:
        case dict():
            return sum(value for value in found.values() if isinstance(value, int))
        case list():
            return len(found)
        case _:
            return 0
