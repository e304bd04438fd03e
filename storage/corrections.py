"""Reads what people say of videos: a table, or a query over OUT, with ``label`` and ``uri`` or ``video_id``."""

from __future__ import annotations

import difflib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cdmodel.errors import ConfigError, SourceError, StorageUnavailable
from cdmodel.example_selection import Correction
from storage.filesystem import Store, open_store
from storage.uri import absolute_uri, base_name, parent_uri
from storage.views import run_query

NAMED_AT_MOST = 5
COLUMNS = ("video_id", "uri", "label", "by", "at", "note")


def read_corrections(place: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV or Parquet table of corrections.

    Raises:
        SourceError: it cannot be read, or is no such table.
    """
    uri = absolute_uri(place)
    try:
        data = open_store(parent_uri(uri)).read(base_name(uri))
        text = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in ("video_id", "uri", "label", "by", "at", "note")}
        )
        table = (
            pq.read_table(io.BytesIO(data))
            if uri.lower().endswith(".parquet")
            else pa.csv.read_csv(io.BytesIO(data), convert_options=text)
        )
    except StorageUnavailable as error:
        raise SourceError(uri, error.reason) from error
    except pa.ArrowException as error:
        raise SourceError(uri, f"is no table of corrections: {' '.join(str(error).split())}") from error
    _require_columns(uri, table.column_names)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def query_corrections(out: Store, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query over the views of OUT.

    Raises:
        ConfigError: the query is wrong, or gives other columns.
    """
    try:
        answer = run_query(out, sql)
    except ConfigError as error:
        raise ConfigError("collect.corrections_sql", error.reason) from error
    _require_columns("collect.corrections_sql", answer.columns)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def match_corrections(
    subject: str, rows: Sequence[Mapping[str, Any]], uri_of_id: Mapping[str, str], labels: Iterable[str]
) -> dict[str, Correction]:
    """Return the corrections by the uri of their videos.

    Args:
        subject: names the table in errors.
        rows: as read.
        uri_of_id: every video that has a label in OUT.
        labels: those that may be given.

    Raises:
        SourceError: two rows contradict each other, a video is not known, or a label is not; rows are counted from 1.
    """
    uris, known = set(uri_of_id.values()), frozenset(labels)
    found: dict[str, tuple[int, Correction]] = {}
    strangers: list[str] = []
    for number, row in enumerate(rows, start=1):
        named = row.get("uri") or uri_of_id.get(str(row.get("video_id")))
        label = row.get("label")
        if not label:
            continue  # nobody has looked at it yet
        if named is None or named not in uris:
            strangers.append(f"{row.get('uri') or row.get('video_id')} (row {number})")
            continue
        if label not in known:
            raise SourceError(subject, f"row {number}: {_unknown_label(str(label), known)}")
        before = found.get(named)
        if before is not None and before[1].label != label:
            raise SourceError(
                subject,
                f"rows {before[0]} and {number} contradict each other: {named} is {before[1].label!r} and {label!r}",
            )
        found[named] = (number, _to_correction(str(named), row))
    if strangers:
        more = f" and {len(strangers) - NAMED_AT_MOST} more" if len(strangers) > NAMED_AT_MOST else ""
        raise SourceError(
            subject, f"names videos that have no label in OUT: {', '.join(strangers[:NAMED_AT_MOST])}{more}"
        )
    return {uri: correction for uri, (_, correction) in found.items()}


def _unknown_label(label: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(label, sorted(known), n=2)
    meant = f"; meant was perhaps {' or '.join(map(repr, close))}" if close else ""
    return f"the bundle in production does not know the label {label!r}{meant}; if it is new, list it in collect.new_labels"


def _to_correction(uri: str, row: Mapping[str, Any]) -> Correction:
    def text(name: str) -> str | None:
        return None if row.get(name) is None else str(row[name])

    return Correction(uri=uri, label=str(row["label"]), by=text("by"), at=text("at"), note=text("note"))


def _require_columns(subject: str, columns: Sequence[str]) -> None:
    if "label" not in columns or not {"uri", "video_id"} & set(columns):
        found = ", ".join(columns) or "none"
        raise SourceError(subject, f"corrections need the columns label, and uri or video_id; there are {found}")
