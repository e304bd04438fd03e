"""Gather what a retraining cycle learns from and is measured on, out of the tables of OUT, corrections and a base data set.

Leaves two manifests, which ``cdlabel train`` and ``cdlabel evaluate`` take as well, and an account of how they came about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cdmodel.errors import SourceError
from cdmodel.example_selection import (
    CONFIDENCE_EDGES,
    LEARNED,
    Correction,
    Example,
    LabeledRow,
    Selection,
    role_of,
    select_examples,
)
from cdmodel.example_settings import CollectSettings
from cdmodel.labels import LabelKind
from cdmodel.splits import assign_roles
from cdmodel.types import LabeledVideo
from storage.corpus import CorpusRules
from storage.corrections import match_corrections, query_corrections, read_corrections
from storage.cycle_store import AUDITS, COMPOSITION, EXAMPLES
from storage.dataset import read_dataset
from storage.example_table import write_examples
from storage.filesystem import Store, open_store
from storage.uri import root_of
from storage.views import run_query

ROWS = """
    select l.video_id, l.uri, l.video_version, l.size_bytes, coalesce(l.source_group, l.uri) as "group", l.label,
        l.confidence, l.escalated, case when l.audited then l.teacher_label end as teacher_label,
        coalesce(cast(json_extract_string(r.config_json, '$.audit.share') as double), 0) as audit_share,
        l.run_id, l.model_version
    from latest l left join runs r using (run_id) where {which}
    qualify row_number() over (partition by l.uri order by l.labeled_at desc, l.video_id) = 1
"""
"""One row for each uri: two manifests may have called one video by two ids."""
POPULATION = """
    select label, list_max([edge for edge in {edges} if edge <= confidence]) as confidence, count(*)
    from latest where status = 'labeled' and labeled_at >= timestamptz '{since}' group by all
"""
"""Classes and cells of confidence: a night of millions is counted where it lies."""
UNUSED_NAMED = 10
LEAST_AUDITS = 10
"""Audited videos below which a cycle is not begun: nothing can be calibrated on fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRequest:
    """What is collected, and for whom."""

    out: str
    settings: CollectSettings
    labels: tuple[str, ...]
    """Of the bundle in production."""
    label_kind: LabelKind
    benchmark: str | None = None
    """Data set that the gate judges by: its videos, and whatever is of their recordings, are never learned from."""
    corpus: CorpusRules = CorpusRules()  # noqa: RUF009 - frozen


def collect_examples(request: CollectRequest, store: Store, now: datetime) -> Selection:
    """Write ``examples.parquet``, ``audits.parquet`` (if there is one) and last ``composition.json`` to ``store``.

    The same tables, corrections and settings give the same bytes. ``now`` is what ``max_age_days`` counts from.

    Raises:
        SourceError: there are no audits yet, or too few; corrections contradict each other or name what nobody knows; a
            role or a class has no example; the base or the benchmark cannot be read.
    """
    if request.label_kind == "multi":
        raise SourceError(
            request.out,
            "bundles with several labels per video are not retrained yet: use cdlabel train, models promote",
        )
    settings, out = request.settings, open_store(request.out)
    since = (
        datetime(1970, 1, 1, tzinfo=UTC)
        if settings.max_age_days is None
        else now - timedelta(days=settings.max_age_days)
    )
    corrections = _corrections(request, out)
    rows = _rows(out, since, settings, corrections)
    judged = _judged(request)
    base = [example for example in _base(request) if example.split == "test" or not judged.has(example)]
    rows, passed_over = _pass_over(rows, base, judged)
    _require_audits(request.out, rows, passed_over)
    selection = select_examples(rows, corrections, (*request.labels, *settings.new_labels), settings)
    audits = [example for example in selection.examples if example.split == "test"]
    examples = sorted((*base, *selection.examples), key=lambda example: example.uri)
    _require_roles(request, examples)
    write_examples(store, EXAMPLES, examples)
    if audits:
        write_examples(store, AUDITS, audits)
    document = _compose(out, since, examples, selection) | {"corrections": _account(corrections, examples)}
    document["examples"]["passed_over"] = passed_over
    store.create(COMPOSITION, json.dumps(document, indent=2, sort_keys=True).encode())
    return selection


def _rows(
    out: Store, since: datetime, settings: CollectSettings, corrections: dict[str, Correction]
) -> list[LabeledRow]:
    which = "(l.audited or l.escalated)" if settings.escalated else "l.audited"
    found = _query_rows(out, f"l.status = 'labeled' and l.labeled_at >= timestamptz '{since.isoformat()}' and {which}")
    missing = sorted(set(corrections) - {row.uri for row in found})
    if missing:
        # What a person has seen holds of any video with a label: however old, read in part, or never shown to the teacher.
        listed = ", ".join("'" + uri.replace("'", "''") + "'" for uri in missing)
        found += _query_rows(out, f"l.label is not null and l.uri in ({listed})")
    return found


def _query_rows(out: Store, which: str) -> list[LabeledRow]:
    answer = run_query(out, ROWS.format(which=which))
    return [LabeledRow(**dict(zip(answer.columns, row, strict=True))) for row in answer.rows]


def _corrections(request: CollectRequest, out: Store) -> dict[str, Correction]:
    settings = request.settings
    if settings.corrections is None and settings.corrections_sql is None:
        return {}
    known = dict(run_query(out, "select video_id, uri from latest where label is not null").rows)
    labels = (*request.labels, *settings.new_labels)
    found: dict[str, Correction] = {}
    if settings.corrections_sql is not None:
        rows = query_corrections(out, settings.corrections_sql)
        found |= match_corrections("collect.corrections_sql", rows, known, labels)
    if settings.corrections is not None:
        found |= match_corrections(settings.corrections, read_corrections(settings.corrections), known, labels)
    return found


def _base(request: CollectRequest) -> list[Example]:
    """Return the videos of the base data set; those without a role get one by their group, as all others do."""
    base = request.settings.base
    if base is None:
        return []
    videos = read_dataset(base, request.corpus, label_kind=request.label_kind).videos
    if any(video.split is not None for video in videos):
        videos = assign_roles(videos, request.settings.seed)
    return [
        _from_base(video) for video in videos if set(video.labels) <= {*request.labels, *request.settings.new_labels}
    ]


def _from_base(video: LabeledVideo) -> Example:
    return Example(
        uri=video.video.uri,
        label=video.labels[0],
        group=video.group,
        split=video.split or role_of(video.group),
        weight=1.0,
        source="base",
        video_id=video.video.video_id,
        video_version=video.video.video_version,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What the benchmark shows, however else it may be called."""

    uris: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    contents: frozenset[tuple[int | None, str | None]] = frozenset()

    def has(self, found: LabeledRow | Example) -> bool:
        content = (found.size_bytes, found.video_version) if isinstance(found, LabeledRow) else None
        return found.uri in self.uris or found.group in self.groups or content in self.contents


def _judged(request: CollectRequest) -> _Judged:
    if request.benchmark is None:
        return _Judged()
    videos = read_dataset(request.benchmark, request.corpus, label_kind=request.label_kind).videos
    videos = tuple(video for video in videos if video.split in (None, "test"))
    return _Judged(
        uris=frozenset(video.video.uri for video in videos),
        groups=frozenset(video.group for video in videos),
        contents=frozenset(
            (video.video.size_bytes, video.video.video_version)
            for video in videos
            if video.video.size_bytes is not None
        ),
    )


def _pass_over(
    rows: Sequence[LabeledRow], base: Sequence[Example], judged: _Judged
) -> tuple[list[LabeledRow], dict[str, int]]:
    """Return the rows that nothing else speaks for, and how many were passed over by what does.

    What the base data set shows is known already, and better. A recording that it gives another role than by name would lie
    on two sides.
    """
    in_base, role_in_base = {example.uri for example in base}, {example.group: example.split for example in base}
    kept: list[LabeledRow] = []
    passed_over = {"in_base": 0, "in_benchmark": 0, "other_role_in_base": 0}
    for row in rows:
        if judged.has(row):
            passed_over["in_benchmark"] += 1
        elif row.uri in in_base:
            passed_over["in_base"] += 1
        elif role_in_base.get(row.group, role_of(row.group)) != role_of(row.group):
            passed_over["other_role_in_base"] += 1
        else:
            kept.append(row)
    return kept, passed_over


def _require_audits(out: str, rows: Sequence[LabeledRow], passed_over: Mapping[str, int]) -> None:
    audits = sum(row.teacher_label is not None for row in rows)
    if audits < LEAST_AUDITS:
        found = "no audits yet" if not audits else f"{audits} audited videos, and at least {LEAST_AUDITS} are needed"
        known = sum(passed_over.values())
        beside = f" (beside {known} videos that stand in the benchmark or in collect.base)" if known else ""
        raise SourceError(
            out, f"{found}{beside}: set audit.share, such as 0.01, and label some nights before retraining"
        )


def _require_roles(request: CollectRequest, examples: Sequence[Example]) -> None:
    learned = {example.label for example in examples if example.split in LEARNED}
    if len(learned) < 2:
        found = f"only {', '.join(learned)}" if learned else "no class at all"
        raise SourceError(
            request.out, f"the examples to learn from show {found}; wait for more nights, or give collect.base"
        )
    for role in ("train", "conf", "cal", "test"):
        if not any(example.split == role for example in examples):
            raise SourceError(
                request.out,
                f"no example has the role {role}, which is given by group: more audited videos of more recordings are "
                "needed, or collect.base",
            )


def _compose(out: Store, since: datetime, examples: Sequence[Example], selection: Selection) -> dict[str, Any]:
    """Return how the examples compare with all that was labeled: what is over-represented, and what the weights mend."""
    population = run_query(out, POPULATION.format(since=since.isoformat(), edges=[0.0, *CONFIDENCE_EDGES])).rows
    learned = [example for example in examples if example.split in LEARNED]
    return {
        "videos_labeled": sum(videos for *_, videos in population),
        "examples": {
            "by_source": dict(Counter(example.source for example in examples)),
            "by_role": dict(Counter(example.split for example in examples)),
            "left_out": asdict(selection.left_out),
        },
        "classes": {
            "labeled": _shares((str(label), videos) for label, _, videos in population),
            "learned": _shares((example.label, 1.0) for example in learned),
            "learned_weighted": _shares((example.label, example.weight) for example in learned),
        },
        "confidence": {
            "labeled": _shares((_bin(confidence), videos) for _, confidence, videos in population),
            "learned": _shares((_bin(example.confidence), 1.0) for example in learned),
            "learned_weighted": _shares((_bin(example.confidence), example.weight) for example in learned),
        },
        "roots": sorted({root_of(example.uri) for example in examples}),
    }


def _account(corrections: Collection[str], examples: Sequence[Example]) -> dict[str, Any]:
    """Return what became of the corrections: none may get lost in silence."""
    used = {example.uri for example in examples if example.source == "correction"}
    unused = sorted(set(corrections) - used)
    return {
        "given": len(corrections),
        "learned_or_measured": len(used),
        "unused": len(unused),
        "unused_first": unused[:UNUSED_NAMED],
    }


def _shares(weighted: Iterable[tuple[str, float]]) -> dict[str, float]:
    mass: dict[str, float] = {}
    for name, weight in weighted:
        mass[name] = mass.get(name, 0.0) + weight
    total = sum(mass.values()) or 1.0
    return {name: round(value / total, 4) for name, value in sorted(mass.items())}


def _bin(confidence: float | None) -> str:
    if confidence is None:
        return "not known"
    low = max((edge for edge in (0.0, *CONFIDENCE_EDGES) if edge <= confidence), default=0.0)
    return f"from {low:g}"
