"""Decoded clips on a local disk: arrays of bytes that are mapped, not loaded, and an index that says how far they count.

Written video by video, in a fixed order; after a kill everything behind the last line of the index is cut off. Torch-free.
N clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdmodel.errors import OutputError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo:
    """One line of the index."""

    clips: int
    """0 where the video could not be read."""
    failure: str | None
    """Why it could not be read."""


class ClipStore:
    """The clips of many videos, in one array for each size in which they are wanted."""

    def __init__(self, folder: Path, name: str, shapes_TCHW: Sequence[tuple[int, int, int, int]]) -> None:
        self._subject = str(folder)
        self._index = folder / f"{name}.jsonl"
        self._shapes = tuple(shapes_TCHW)
        self._arrays = tuple(folder / f"{name}-{number}.u8" for number in range(len(self._shapes)))
        self._videos = self._recover()

    @property
    def videos(self) -> tuple[StoredVideo, ...]:
        """What is kept, in the order it was added."""
        return tuple(self._videos)

    def add(self, clips_NTCHW: Sequence[NDArray[np.uint8]]) -> None:
        """Append the next video: its clips in each size, equally many.

        Raises:
            OutputError: the disk does not take it.
        """
        try:
            for path, pixels_NTCHW in zip(self._arrays, clips_NTCHW, strict=True):
                with path.open("ab") as file:
                    file.write(np.ascontiguousarray(pixels_NTCHW).data)
        except OSError as error:
            raise OutputError(self._subject, f"cannot be written ({error.strerror})") from error
        self._note(StoredVideo(clips=len(clips_NTCHW[0]), failure=None))

    def add_failure(self, reason: str) -> None:
        """Note that the next video cannot be read, so that it is not tried again."""
        self._note(StoredVideo(clips=0, failure=reason))

    def map_arrays(self) -> tuple[NDArray[np.uint8], ...]:
        """Return every size as a read-only mapped array [N, T, C, H, W]."""
        clips = sum(video.clips for video in self._videos)
        return tuple(
            np.memmap(path, dtype=np.uint8, mode="r", shape=(clips, *shape))
            if clips
            else np.empty((0, *shape), dtype=np.uint8)
            for path, shape in zip(self._arrays, self._shapes, strict=True)
        )

    def _note(self, video: StoredVideo) -> None:
        line = json.dumps({"clips": video.clips, "failure": video.failure}) + "\n"
        try:
            with self._index.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise OutputError(self._subject, f"cannot be written ({error.strerror})") from error
        self._videos.append(video)

    def _recover(self) -> list[StoredVideo]:
        """Read the index as far as whole lines with whole clips go, and cut off the rest."""
        try:
            videos = _keep_whole(_read_index(self._index), self._sizes())
            self._index.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"clips": video.clips, "failure": video.failure}) + "\n" for video in videos]
            self._index.write_text("".join(lines), encoding="utf-8")
            clips = sum(video.clips for video in videos)
            for path, shape in zip(self._arrays, self._shapes, strict=True):
                path.touch()
                os.truncate(path, clips * int(np.prod(shape)))
        except OSError as error:
            raise OutputError(self._subject, f"cannot be written ({error.strerror})") from error
        return videos

    def _sizes(self) -> int:
        """Return how many clips all arrays hold in full."""
        return min(
            (path.stat().st_size if path.exists() else 0) // int(np.prod(shape))
            for path, shape in zip(self._arrays, self._shapes, strict=True)
        )


def _read_index(path: Path) -> list[StoredVideo]:
    videos: list[StoredVideo] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                videos.append(StoredVideo(**json.loads(line)))
            except (ValueError, TypeError):
                # A power cut may halve the last line.
                break
    return videos


def _keep_whole(videos: Sequence[StoredVideo], clips_held: int) -> list[StoredVideo]:
    kept: list[StoredVideo] = []
    for video in videos:
        clips_held -= video.clips
        if clips_held < 0:
            break
        kept.append(video)
    return kept
