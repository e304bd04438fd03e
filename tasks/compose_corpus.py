"""Make an untrimmed test archive out of a labeled, trimmed data set: each video among pieces of other videos.

What a cascade saves shows on videos that mostly show nothing of their class. Every labeled video becomes one composite:
a passage of it, once, at a random place among passages of backgrounds. No recording gives background to two roles, so
that a composite cannot be told by scenery known from training. The same arguments give the same bytes. The table
``labels.csv`` appears last, when every video it names and ``segments.csv``, where the class is, are there.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cdmodel.composites import divide_groups
from cdmodel.encode import encode_mp4
from cdmodel.errors import OutputError, SourceError
from cdmodel.splits import assign_roles
from cdmodel.types import LabeledVideo, Split
from storage.backgrounds import Background, list_backgrounds
from storage.dataset import read_dataset
from storage.filesystem import Store, open_store
from tasks.compose_pieces import Composing, Piece, SegmentRole, UnusedVideo, compose_pieces
from tasks.compose_settings import ComposeSettings

LABELS_NAME = "labels.csv"
SEGMENTS_NAME = "segments.csv"
LABEL_COLUMNS = ("uri", "label", "group", "split")
SEGMENT_COLUMNS = ("uri", "start_seconds", "end_seconds", "source", "role")
LABEL_SEPARATOR = "|"
"""Between the labels of a video that has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedCorpus:
    """What was written, and what was left out."""

    folder: str
    labels: str
    """URI of the table; its ``uri`` column is relative to the table."""
    segments: str
    """URI of the table that says what each second of each composite shows, and from which video."""
    videos: int
    seconds: float
    """All composites together."""
    distractors: float
    """Share of all those seconds that shows nothing of the class."""
    backgrounds_used: int
    backgrounds_excluded: int
    """Videos of BACKGROUNDS that are in the data set, or labeled as one of its classes."""
    bytes_written: int
    skipped: tuple[UnusedVideo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    source: str
    role: SegmentRole
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Composite:
    """One row of the table of labels, and its rows in the table of segments, in order of time."""

    name: str
    video: LabeledVideo
    segments: tuple[_Segment, ...]


def compose_corpus(
    dataset: str,
    backgrounds: str,
    out: str,
    settings: ComposeSettings,
    on_progress: Callable[[int, int], None],
) -> ComposedCorpus:
    """Write one composite for each labeled video of ``dataset`` to the new folder ``out``.

    ``backgrounds`` names videos as SOURCE does everywhere, or is a labeled data set whose groups are kept together. A
    copy of a video under another name is another video. ``on_progress`` gets how many videos of the data set are done,
    and of how many. Videos that cannot be read are skipped. Holds one composite in memory.

    Raises:
        OutputError: ``out`` is not empty, or somebody else writes there.
        SourceError: data set or backgrounds cannot be read, hold too few groups, or not one composite could be made.
    """
    videos = assign_roles(read_dataset(dataset, settings.corpus).videos, settings.seed)
    listed = list_backgrounds(backgrounds, settings.corpus)
    kept = _without_classes(listed, videos) if settings.distractors else ()
    pools = _divide(backgrounds, kept, videos, settings)
    store = open_store(out)
    if store.list():
        raise OutputError(out, "the folder is not empty; name a new one")
    work = Composing(settings=settings)
    composites: list[_Composite] = []
    bytes_written = 0
    for index, video in enumerate(videos):
        pieces = compose_pieces(work, index, video, pools.get(video.split, ()))
        if pieces:
            composite = _Composite(name=f"videos/composite-{index:05d}.mp4", video=video, segments=_to_segments(pieces))
            frames = [frame for piece in pieces for frame in piece.frames]
            bytes_written += _create(store, out, composite.name, encode_mp4(frames, settings.frames_per_second))
            composites.append(composite)
        on_progress(index + 1, len(videos))
    if not composites:
        last = list(work.unused.values())[-1]
        raise SourceError(
            dataset, f"not one composite could be made; the last video left out: {last.uri}: {last.reason}"
        )
    bytes_written += _create(store, out, SEGMENTS_NAME, _segment_table(composites, settings))
    bytes_written += _create(store, out, LABELS_NAME, _label_table(composites))
    return _summarise(out, composites, work, bytes_written, len(listed) - len(kept) if settings.distractors else 0)


def _without_classes(backgrounds: Iterable[Background], videos: Sequence[LabeledVideo]) -> tuple[Background, ...]:
    uris = {video.video.uri for video in videos}
    labels = {label for video in videos for label in video.labels}
    return tuple(
        background
        for background in backgrounds
        if background.video.uri not in uris and labels.isdisjoint(background.labels)
    )


def _divide(
    source: str, backgrounds: Sequence[Background], videos: Sequence[LabeledVideo], settings: ComposeSettings
) -> dict[Split | None, list[Background]]:
    """Return the backgrounds of each role that the data set has."""
    if not settings.distractors:
        return {}
    demand = Counter(video.split for video in videos if video.split)
    settled = {video.group: video.split for video in videos if video.split}
    roles = divide_groups((background.group for background in backgrounds), demand, settled, settings.seed)
    pools: dict[Split | None, list[Background]] = {role: [] for role in demand}
    for background in backgrounds:
        pools[roles[background.group]].append(background)
    empty = sorted(str(role) for role, pool in pools.items() if not pool)
    if empty:
        raise SourceError(
            source,
            f"no background for {', '.join(empty)}: {len(roles)} groups are there that are not of the data set's "
            "videos and classes, and each role needs its own",
        )
    return pools


def _to_segments(pieces: Iterable[Piece]) -> tuple[_Segment, ...]:
    return tuple(_Segment(source=piece.source, role=piece.role, frames=len(piece.frames)) for piece in pieces)


def _segment_table(composites: Iterable[_Composite], settings: ComposeSettings) -> bytes:
    rows: list[tuple[object, ...]] = []
    for composite in composites:
        start = 0
        for segment in composite.segments:
            times = (f"{frame / settings.frames_per_second:g}" for frame in (start, start + segment.frames))
            rows.append((composite.name, *times, segment.source, segment.role))
            start += segment.frames
    return _to_csv(SEGMENT_COLUMNS, rows)


def _label_table(composites: Iterable[_Composite]) -> bytes:
    return _to_csv(
        LABEL_COLUMNS,
        (
            (composite.name, LABEL_SEPARATOR.join(composite.video.labels), composite.video.group, composite.video.split)
            for composite in composites
        ),
    )


def _to_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _create(store: Store, folder: str, name: str, content: bytes) -> int:
    """Write a new object and return its size."""
    if not store.create(name, content):
        raise OutputError(f"{folder}/{name}", "somebody else is writing here; name another folder")
    return len(content)


def _summarise(
    folder: str, composites: Sequence[_Composite], work: Composing, bytes_written: int, backgrounds_excluded: int
) -> ComposedCorpus:
    segments = [segment for composite in composites for segment in composite.segments]
    background = [segment for segment in segments if segment.role == "background"]
    frames = sum(segment.frames for segment in segments)
    return ComposedCorpus(
        folder=folder,
        labels=f"{folder.rstrip('/')}/{LABELS_NAME}",
        segments=f"{folder.rstrip('/')}/{SEGMENTS_NAME}",
        videos=len(composites),
        seconds=frames / work.settings.frames_per_second,
        distractors=sum(segment.frames for segment in background) / frames,
        backgrounds_used=len({segment.source for segment in background}),
        backgrounds_excluded=backgrounds_excluded,
        bytes_written=bytes_written,
        skipped=tuple(work.unused.values()),
    )
