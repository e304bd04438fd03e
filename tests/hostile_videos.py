"""Openers of videos that attack whoever decodes them. Importable by name, as a decoder's process needs it."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

from cdmodel.errors import VideoStorageError
from cdmodel.types import VideoRef
from storage.video_file import open_video


def open_file(path: str) -> io.FileIO:
    return io.FileIO(path)


class HostileFile(io.BytesIO):
    """A video whose file turns on its reader after some reads."""

    def __init__(self, content: bytes, attack: str, reads: int = 0) -> None:
        super().__init__(content)
        self._attack = attack
        self._reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            strike(self._attack)
        return super().read(size)


def open_hostile(path: str, attack: str, reads: int = 0) -> HostileFile:
    return HostileFile(Path(path).read_bytes(), attack, reads)


def strike_at_once(attack: str) -> io.BytesIO:
    strike(attack)
    return io.BytesIO()


class SlowFile(io.FileIO):
    """A store that takes its time, and answers."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.05)
        return super().read(min(size or 1, 4096))


def open_memorable(path: str) -> io.FileIO:
    """Leave memory behind."""
    HOARD.append(bytearray(b"x") * 2**27)
    return open_file(path)


def strike(attack: str) -> None:
    STRIKES[attack]()


def _grow() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(2**24))


def _tell_modules() -> None:
    raise VideoStorageError("modules", ",".join(name for name in ("torch", "pyarrow") if name in sys.modules))


def _lose_the_store() -> None:
    raise VideoStorageError("somewhere", "the store is gone")


def _trip() -> None:
    raise ZeroDivisionError("a bug")


HOARD: list[bytearray] = []
STRIKES: dict[str, Callable[[], object]] = {
    "sleep": partial(time.sleep, 3600),
    # Keeps the interpreter's lock, as a native loop may.
    "native hang": partial(ctypes.PyDLL(None).sleep, 3600),
    "segfault": partial(ctypes.string_at, 0),
    "abort": os.abort,
    "exit": partial(os._exit, 3),
    "grow": _grow,
    "store": _lose_the_store,
    "bug": _trip,
    "modules": _tell_modules,
}


def open_or_be_struck(video: VideoRef) -> BinaryIO | RawIOBase:
    """Open a video as ever, but let one that is named after an attack strike in the middle."""
    attack = video.video_id.partition(".")[0]
    return open_hostile(video.uri, attack, 1) if attack in STRIKES else open_video(video)
