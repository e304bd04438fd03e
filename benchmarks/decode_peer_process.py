"""The processes in which ``decode.py`` runs the readers of ``decode_peers.py``, and what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAME_FFMPEG = ", same FFmpeg"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnswer:
    """What one reading cost and showed."""

    cpu_seconds: float
    pts_seconds: list[float]
    pixels_FCHW: NDArray[np.uint8]
    """Empty unless they were asked for."""


class PeerProcess:
    """One interpreter that serves the readers it could load, each named as the protocol names it and ``suffix``."""

    def __init__(self, interpreter: str, suffix: str, environment: Mapping[str, str]) -> None:
        self._suffix = suffix
        self._process = subprocess.Popen(
            [interpreter, str(Path(__file__).with_name("decode_peers.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        greeting = self._read()
        self.versions = {name + suffix: version for name, version in greeting["versions"].items()}
        self._names = {reader + suffix: reader for reader in greeting["readers"]}
        self.readers = tuple(self._names)

    def ask(
        self, reader: str, path: Path, frames: Sequence[int], height: int, width: int, *, with_pixels: bool = False
    ) -> PeerAnswer | str:
        """Return what the reader answered, or its error."""
        with tempfile.TemporaryDirectory() as folder:
            save = str(Path(folder) / "pixels.npy") if with_pixels else None
            request = {
                "reader": self._names[reader],
                "path": str(path),
                "frames": list(frames),
                "height": height,
                "width": width,
                "save": save,
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._read()
            if "error" in answer:
                return str(answer["error"])
            pixels = np.load(save) if save else np.empty((0, 3, height, width), np.uint8)
            return PeerAnswer(cpu_seconds=answer["cpu_seconds"], pts_seconds=answer["pts_seconds"], pixels_FCHW=pixels)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the interpreter of the others ended with {self._process.wait()}")
        return json.loads(line)


def start_peers(stack: contextlib.ExitStack, interpreter: str) -> dict[str, PeerProcess]:
    """Start the peers as they are installed, and torchcodec on the FFmpeg libraries that PyAV brings."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    peers = {
        "": PeerProcess(interpreter, "", {}),
        SAME_FFMPEG: PeerProcess(interpreter, SAME_FFMPEG, {"LD_LIBRARY_PATH": link_ffmpeg(folder)}),
    }
    for peer in peers.values():
        stack.callback(peer.close)
    # decord uses no FFmpeg but its own.
    same = peers[SAME_FFMPEG]
    same.readers = tuple(reader for reader in same.readers if not reader.startswith("decord"))
    return peers


def link_ffmpeg(folder: Path) -> str:
    """Give PyAV's libraries their usual names in the folder; return the search path that finds them.

    PyAV's wheel names them libavcodec-<hash>.so.62.28.102; whoever links against FFmpeg looks for libavcodec.so.62.
    """
    libraries = Path(av.__file__).parent.parent / "av.libs"
    for library in [*libraries.glob("libav*-*.so.*"), *libraries.glob("libsw*-*.so.*")]:
        name, _, rest = library.name.partition("-")
        major = rest.partition(".so.")[2].partition(".")[0]
        (folder / f"{name}.so.{major}").symlink_to(library)
    return f"{folder}:{libraries}"
