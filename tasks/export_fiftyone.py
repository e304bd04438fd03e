"""Labels as JSON that FiftyOne imports: one detection in time per video, and one per clip.

The format is ``FiftyOneTemporalDetectionDataset`` as its documentation has it
(https://docs.voxel51.com/user_guide/import_datasets.html#fiftyonetemporaldetectiondataset): ``labels`` maps a video, by its
absolute path, to detections with ``label``, ``timestamps`` in seconds, ``confidence`` and ``attributes``. Without ``classes``
the labels are names. There is no JSON format of labels of whole videos, so such a label is a detection from start to end.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

VIDEOS_NAME, CLIPS_NAME = "labels.json", "clips.json"
ROWS_AT_ONCE = 1000
DIGITS = 6
"""Of seconds and probabilities, which are float32 in the table."""
Row = Mapping[str, Any]
LabelNames = Mapping[tuple[str, int], str]


def write_fiftyone(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Write the view ``exported`` as ``labels.json`` (videos) and ``clips.json``, ascending by URI; return the rows.

    Without those whose names FiftyOne takes for images: one of them, and it refuses the whole file.
    """
    names = _label_names(connection)
    rows = _write(folder / VIDEOS_NAME, _rows(connection, _VIDEO_COLUMNS), lambda row: [_video_detection(row)])
    clip_rows = _rows(connection, _CLIP_COLUMNS)
    _write(
        folder / CLIPS_NAME, clip_rows, lambda row: [_clip_detection(row, clip, names) for clip in row["clips"] or []]
    )
    return rows


_VIDEO_COLUMNS = (
    "uri, video_id, label, confidence, duration_seconds, status, coverage, decided_by, escalated, model_version, run_id, "
    "clips[-1].end_seconds as last_second"
)
_CLIP_COLUMNS = "uri, video_id, model_version, duration_seconds, clips"


def _rows(connection: duckdb.DuckDBPyConnection, columns: str) -> Iterator[Row]:
    """Yield the rows of the view, a few at a time."""
    answer = connection.execute(f"select {columns} from exported order by uri, video_id")
    names = [column[0] for column in answer.description]
    while rows := answer.fetchmany(ROWS_AT_ONCE):
        for values in rows:
            row = dict(zip(names, values, strict=True))
            if not _is_image(row["uri"]):
                yield row


def _is_image(uri: str) -> bool:
    """Tell whether FiftyOne takes a file for an image, as it does a GIF; it goes by the name's MIME type, as we do."""
    return (mimetypes.guess_type(uri)[0] or "").startswith("image/")


def _label_names(connection: duckdb.DuckDBPyConnection) -> LabelNames:
    """Return the names of labels by model and position: clips have positions only."""
    rows = connection.execute("select model_version, label_id, label from labels").fetchall()
    return {(model_version, label_id): label for model_version, label_id, label in rows}


def _write(target: Path, rows: Iterator[Row], detections: Callable[[Row], list[dict[str, Any]]]) -> int:
    """Write one JSON document a video at a time; return the rows. Two rows of one URI are one entry."""
    count = 0
    with target.open("w", encoding="utf-8") as file:
        file.write('{"labels": {')
        separator = "\n"
        for uri, same_uri in groupby(rows, key=lambda row: row["uri"]):
            found: list[dict[str, Any]] = []
            for row in same_uri:
                count += 1
                found += detections(row)
            file.write(f"{separator}{json.dumps(uri)}: {json.dumps(found)}")
            separator = ",\n"
        file.write("\n}}\n")
    return count


def _video_detection(row: Row) -> dict[str, Any]:
    end_seconds = row["duration_seconds"] or row["last_second"] or 0.0
    attributes = ("video_id", "status", "coverage", "decided_by", "escalated", "model_version", "run_id")
    return _detection(row["label"], (0.0, end_seconds), row["confidence"], {name: row[name] for name in attributes})


def _clip_detection(row: Row, clip: Row, names: LabelNames) -> dict[str, Any]:
    who = clip["scored_by"]
    label_id = clip[f"{who}_label_id"]
    end_seconds = min(clip["end_seconds"], row["duration_seconds"] or clip["end_seconds"])
    return _detection(
        names.get((row["model_version"], label_id), f"label {label_id}"),
        (min(clip["start_seconds"], end_seconds), end_seconds),
        clip[f"{who}_confidence"],
        {"video_id": row["video_id"], "scored_by": who, "weight": clip["weight"], "q_teacher": clip["q_teacher"]},
    )


def _detection(
    label: str, span_seconds: tuple[float, float], confidence: float | None, attributes: dict[str, Any]
) -> dict[str, Any]:
    told: dict[str, Any] = {"label": label, "timestamps": [round(end, DIGITS) for end in span_seconds]}
    if confidence is not None:
        told["confidence"] = round(confidence, DIGITS)
    rounded = {
        name: round(value, DIGITS) if isinstance(value, float) else value
        for name, value in attributes.items()
        if value is not None
    }
    return told | {"attributes": rounded}
