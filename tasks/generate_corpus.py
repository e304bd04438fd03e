"""Write a labeled corpus of kinetic scenes: videos and the table ``labels.csv``, to try everything on.

The same arguments give the same bytes. The table appears last, when every video it names is there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

from cdmodel.encode import encode_mp4
from cdmodel.errors import ConfigError, OutputError
from cdmodel.scenes import FRAMES_PER_SECOND, Scene, SceneSpec, draw_scene, render
from cdmodel.splits import split_groups
from storage.filesystem import Store, open_store

LABELS_NAME = "labels.csv"
COLUMNS = ("uri", "label", "group", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedCorpus:
    """What was written."""

    folder: str
    labels: str
    """URI of the table; its ``uri`` column is relative to the table."""
    videos: int
    bytes_written: int


def generate_corpus(
    folder: str, *, videos: int, seed: int, distractors: float, on_progress: Callable[[int], None]
) -> GeneratedCorpus:
    """Generate ``videos`` scenes under ``folder`` with roles by group; ``on_progress`` gets how many are written.

    ``distractors`` is the share of each video's clips that show nothing of its class. Scene i does not depend on
    ``videos``, its role does.

    Raises:
        ConfigError: an argument is out of range.
        OutputError: the folder is not empty.
    """
    if videos < 1:
        raise ConfigError("videos", f"must be at least 1, got {videos}")
    spec = SceneSpec(seed=seed, distractors=distractors)
    store = open_store(folder)
    if store.list():
        raise OutputError(folder, "the folder is not empty; name a new one")
    scenes = [draw_scene(spec, index) for index in range(videos)]
    bytes_written = 0
    for done, scene in enumerate(scenes, start=1):
        content = encode_mp4(render(scene), FRAMES_PER_SECOND)
        _create(store, folder, _video_name(scene), content)
        bytes_written += len(content)
        on_progress(done)
    table = _label_table(scenes, seed)
    _create(store, folder, LABELS_NAME, table)
    return GeneratedCorpus(
        folder=folder,
        labels=f"{folder.rstrip('/')}/{LABELS_NAME}",
        videos=videos,
        bytes_written=bytes_written + len(table),
    )


def _video_name(scene: Scene) -> str:
    return f"videos/scene-{scene.index:05d}.mp4"


def _label_table(scenes: list[Scene], seed: int) -> bytes:
    roles = split_groups((scene.group for scene in scenes), seed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((_video_name(scene), scene.label, scene.group, roles[scene.group]) for scene in scenes)
    return text.getvalue().encode()


def _create(store: Store, folder: str, name: str, content: bytes) -> None:
    if not store.create(name, content):
        raise OutputError(f"{folder}/{name}", "somebody else is writing here; name another folder")
