"""Judge a retrained bundle against the one in production: score the same videos with both, replay, decide, write it down.

Scores are kept by content, so that a killed judgement goes on, and production need not look at the benchmark again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cdmodel.bundle import model_version, read_manifest, untaught_labels
from cdmodel.errors import DamagedObject, SourceError
from cdmodel.gate import compare_bundles, decide
from cdmodel.gate_answers import replay_side
from cdmodel.gate_facts import BundleFacts, GateDecision, SetAnswers, SetName, SideAnswers
from cdmodel.gate_settings import GateSettings
from cdmodel.models import CascadeModels, load_bundle, pick_device
from cdmodel.score_entry import ScoredEntry
from cdmodel.types import LabeledVideo
from storage.corpus import CorpusRules
from storage.dataset import read_dataset
from storage.filesystem import Store
from tasks.evaluate_bundle import subject_of
from tasks.score_dataset import ScoredDataset, score_dataset

GATE = "gate.json"
_DECISIONS = TypeAdapter(GateDecision)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSets:
    """The data sets a candidate is judged by, as ``read_dataset`` takes them; of each only videos no bundle learned from.

    Where a set gives its videos roles, those of ``test`` count, else all of them.
    """

    benchmark: str | None
    """The frozen benchmark; None where there is none."""
    audits: str | None
    """Audited videos, the dense teacher's answer being the label; None where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateProgress:
    """How far the scoring of one set by one bundle is."""

    stage: str
    """Such as ``benchmark, candidate``."""
    done: int
    total: int


OnGate = Callable[[GateProgress], None]


def judge_candidate(
    candidate: Path,
    production: Path | None,
    sets: GateSets,
    settings: GateSettings,
    store: Store,
    on_progress: OnGate,
    *,
    corpus: CorpusRules | None = None,
    allowed_builders: Sequence[str] = (),
    scores: Store | None = None,
) -> GateDecision:
    """Decide whether ``candidate`` takes the place of ``production`` (None: there is none), and write ``gate.json``.

    A decision that stands in ``store`` already, about the same two bundles, is returned as it is.

    Args:
        candidate: local folder of the bundle.
        production: local folder of the bundle in production now.
        sets: what they are compared on.
        settings: the margins.
        store: where ``gate.json`` goes, which is created once.
        on_progress: told how far it is.
        corpus: where else than in its own folder a set's manifest may name videos.
        allowed_builders: as for ``load_bundle``.
        scores: where the scores are kept, ``store`` by default; one place for several judgements saves scoring
            production on the benchmark again.

    Raises:
        BundleError: a bundle cannot be loaded.
        SourceError: a set cannot be read.
        StorageError: the decision or the scores can neither be read nor written, or a decision about other bundles
            stands there.
    """
    candidate_facts, production_facts = _facts_of(candidate), None if production is None else _facts_of(production)
    if store.exists(GATE):
        return _matching(store, candidate_facts, production_facts)
    answers: list[SetAnswers] = []
    if compare_bundles(candidate_facts, production_facts) is None:
        videos = _read_sets(sets, candidate_facts, corpus)
        models = load_bundle(candidate, pick_device(), allowed_builders)
        rival = None if production is None else load_bundle(production, pick_device(), allowed_builders)
        answers = [
            _answer(name, of_set, models, rival, scores or store, on_progress) for name, of_set in videos.items()
        ]
    decision = decide(candidate_facts, production_facts, answers, settings)
    if store.create(GATE, _DECISIONS.dump_json(decision, indent=2) + b"\n"):
        return decision
    return _matching(store, candidate_facts, production_facts)


def read_decision(store: Store) -> GateDecision:
    """Return the decision that stands in ``store``.

    Raises:
        StorageError: there is none, or it cannot be read.
    """
    try:
        return _DECISIONS.validate_json(store.read(GATE))
    except ValidationError as error:
        raise DamagedObject(store.uri_of(GATE), "is no decision of the gate; delete it to judge again") from error


def _matching(store: Store, candidate: BundleFacts, production: BundleFacts | None) -> GateDecision:
    decision = read_decision(store)
    expected = (candidate.model_version, None if production is None else production.model_version)
    if (decision.candidate, decision.production) != expected:
        raise DamagedObject(
            store.uri_of(GATE),
            f"is about {decision.candidate} against {decision.production or 'nothing'}, not {expected[0]} against "
            f"{expected[1] or 'nothing'}; delete it to judge again",
        )
    return decision


def _facts_of(folder: Path) -> BundleFacts:
    manifest = read_manifest(folder)
    return BundleFacts(
        model_version=model_version(manifest),
        labels=manifest.labels,
        label_kind=manifest.label_kind,
        untaught=untaught_labels(manifest),
    )


def _read_sets(
    sets: GateSets, candidate: BundleFacts, corpus: CorpusRules | None
) -> dict[SetName, tuple[LabeledVideo, ...]]:
    """Return the videos of each set that is there: those of the role ``test``, or all where none has a role."""
    places: tuple[tuple[SetName, str | None], ...] = (("benchmark", sets.benchmark), ("audits", sets.audits))
    found: dict[SetName, tuple[LabeledVideo, ...]] = {}
    for name, place in places:
        if place is None:
            continue
        videos = read_dataset(place, corpus, label_kind=candidate.label_kind).videos
        chosen = tuple(video for video in videos if video.split in (None, "test"))
        if not chosen:
            raise SourceError(place, f"no video of the role test is there for the {name}")
        found[name] = chosen
    return found


def _answer(
    name: SetName,
    videos: Sequence[LabeledVideo],
    candidate: CascadeModels,
    production: CascadeModels | None,
    store: Store,
    on_progress: OnGate,
) -> SetAnswers:
    """Score the videos with both bundles and replay the default of each; videos that one cannot read are left out."""
    before = None if production is None else _score(f"{name}, production", videos, production, store, on_progress, {})
    known: Mapping[str, ScoredEntry] = {}
    if before is not None and production is not None and has_same_teacher(candidate, production):
        known = {entry.answers.video_id: entry for entry in before.entries}
    after = _score(f"{name}, candidate", videos, candidate, store, on_progress, known)
    readable = {entry.answers.video_id for entry in after.entries}
    if before is not None:
        readable &= {entry.answers.video_id for entry in before.entries}
    kept = [entry.video for entry in after.entries if entry.answers.video_id in readable]
    return SetAnswers(
        name=name,
        groups=tuple(video.group for video in kept),
        labels=tuple(video.labels for video in kept),
        candidate=_replay(after, readable, candidate),
        production=None if before is None or production is None else _replay(before, readable, production),
        videos_unreadable=len(videos) - len(readable),
    )


def has_same_teacher(one: CascadeModels, other: CascadeModels) -> bool:
    """Whether the teachers of two bundles give the same logits to every clip of every video."""
    return (
        one.manifest.teacher == other.manifest.teacher
        and one.manifest.labels == other.manifest.labels
        and one.manifest.sampling == other.manifest.sampling
        and one.device_name == other.device_name
    )


def _score(
    stage: str,
    videos: Sequence[LabeledVideo],
    models: CascadeModels,
    store: Store,
    on_progress: OnGate,
    teacher_of: Mapping[str, ScoredEntry],
) -> ScoredDataset:
    return score_dataset(
        videos,
        models,
        models.manifest.sampling,
        store,
        lambda done, total: on_progress(GateProgress(stage=stage, done=done, total=total)),
        teacher_of=teacher_of,
    )


def _replay(scored: ScoredDataset, readable: set[str], models: CascadeModels) -> SideAnswers:
    """Replay the bundle's default and its dense teacher on the videos both sides can read, in their order."""
    videos = [entry.answers for entry in scored.entries if entry.answers.video_id in readable]
    return replay_side(videos, subject_of(models))
