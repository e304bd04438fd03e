"""What a report costs: wall and CPU seconds, peak memory and bytes of ``cdlabel report --html`` for runs of some sizes.

Invented runs (``scale_rows.py``: five clips a video, every label and URI random), each measurement in a process of its own which
starts with the modules loaded; medians of the repetitions. The least certain twelve videos are small real ones, so that their
pictures are decoded. ``others`` is DuckDB alone answering what the report asks of the rows: what is left is reading the runs'
records, decoding pictures, drawing and writing.
Usage: python benchmarks/bench_report.py [--videos 10000 100000 1000000] [--repetitions 3] [--json]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scale_stages as stages
from document import argument_parser, document
from scale_rows import invent_videos
from scale_stages import cases_of, in_process

from cdmodel.types import VideoRef
from flows.report_command import write_page
from storage.filesystem import open_store
from storage.run_store import make_shard
from storage.views import connect_views
from tasks import report_facts
from tasks.generate_corpus import generate_corpus
from tasks.report_facts import gather_report

VIDEOS = (10_000, 100_000, 1_000_000)
REPETITIONS = 3
NIGHTS = 3
PICTURES = 12
UNITS = {
    "wall": "wall seconds",
    "cpu": "CPU seconds",
    "mib": "peak MiB",
    "kib": "KiB of HTML",
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, nargs="*", default=VIDEOS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cdlabel-report-") as folder:
        for videos in arguments.videos:
            out = f"{folder}/{videos}"
            in_process(finish_nights, out, videos)
            ours = [in_process(report, out) for _ in range(arguments.repetitions)]
            others = [in_process(questions_alone, out) for _ in range(arguments.repetitions)]
            for name, case in cases_of(f"report, {videos} videos", UNITS, ours, {"the queries alone": others}):
                cases[name] = case
                print(f"{name}: {case['ours']} {case['unit']}, others {case['others']}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(document("report", cases, arguments.repetitions)))


def finish_nights(out: str, videos: int) -> None:
    """Set-up: runs of other videos on the nights before, and one of that size."""
    store = open_store(out)
    for night in range(NIGHTS):
        listed = invent_videos(videos if night == NIGHTS - 1 else videos // 10, night)
        planned = VideoRef(video_id="one", uri="s3://archive/one", video_version="1", size_bytes=1)
        shards = (make_shard([planned], stages.fingerprint()),)
        header = stages.header_of(f"run-{night}", shards, run=night)
        rows = stages.rows_of(listed, header)
        stages.finish_invented(store, header, shards, _with_real_videos(rows, Path(out).parent / "videos"))


def _with_real_videos(rows: pa.Table, folder: Path) -> pa.Table:
    """Let the least certain rows be of generated videos, so that there is something to decode."""
    if not folder.exists():
        generate_corpus(str(folder), videos=PICTURES, seed=0, distractors=0.5, on_progress=lambda *_: None)
    found = sorted(str(file) for file in folder.rglob("*.mp4"))
    least = np.argsort(rows.column("confidence").to_numpy())[: len(found)]
    uris = rows.column("uri").to_numpy(zero_copy_only=False)
    uris[least] = found
    place = rows.schema.get_field_index("uri")
    return rows.set_column(place, rows.schema.field("uri"), pa.array(uris, pa.string()))


def report(out: str) -> stages.Figures:
    page = Path(out).parent / "report.html"
    with stages.metered() as figures:
        write_page(gather_report(out, None, uncertain_videos=PICTURES), out, str(page))
    return figures | {"kib": page.stat().st_size / 1024}


def questions_alone(out: str) -> stages.Figures:
    """Ask DuckDB what the report asks of the rows, with the same queries, and keep nothing."""
    store = open_store(out)
    with stages.metered() as figures, connect_views(store) as connection:
        report_facts.summarise_rows(connection, f"run-{NIGHTS - 1}", PICTURES)
    return figures


if __name__ == "__main__":
    main()
