"""What reading videos from an object store costs in requests and bytes, and what that takes at its prices.

The store is a file on disk behind a counter. Seconds are modelled: 30 ms for a request, 100 MB/s for what it brings, one
after another (fsspec's adaptive cache sends several at once, so its time is too high; its counts are right). Others: the
caches of fsspec, and downloading the file first. Ratio = other / ours. Clips are read by ``ClipReader``, which jumps in MP4
and Matroska and reads MPEG-TS through. Usage: python benchmarks/bench_remote_reads.py [--json]
"""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from document import argument_parser, document
from fsspec.spec import AbstractBufferedFile

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling
from storage.kept_ranges import KeptRangesFile
from storage.read_ahead import MIB, ReadAhead

REQUEST_SECONDS = 0.030
BYTES_PER_SECOND = 100e6
FRAMES_PER_SECOND = 25
CLIP_SECONDS = 33 / FRAMES_PER_SECOND
"""16 frames, every second one."""
BUFFER_BYTES = 32 * 1024
"""PyAV's own buffer: its default."""
GEOMETRY = ClipGeometry(frames=16, height=112, width=112)
RANGES_ONLY = replace(ReadAhead(), whole_file_bytes=0)
FIXED = {"fsspec readahead 1 MiB": MIB, "fsspec readahead 5 MiB": 5 * MIB}
ADAPTIVE = "fsspec adaptive"
DOWNLOAD = "download first"
CROSSOVER_MINUTES = (1, 2, 4, 6, 8, 12)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(Path(folder))
    report = document("remote_reads", cases, 1)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, case in cases.items():
        others = "; ".join(f"{other}: {value:g}" for other, value in case["others"].items())
        print(f"{name}: {case['ours']:g} {case['unit']}; {others}")


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    minute = encode_minute()
    cases: dict[str, dict[str, Any]] = {}
    for name, options in (("in front", {"movflags": "faststart"}), ("at the end", {})):
        path = folder / f"hour {name}.mp4"
        repeat_minute(minute, 60, path, options)
        cases |= compare(f"10 clips of a 60-minute mp4, index {name}", path, lambda file: read_clips(file, 10, 3600))
    for suffix in ("mkv", "ts"):
        path = folder / f"hour.{suffix}"
        repeat_minute(minute, 60, path, {})
        cases |= compare(f"10 clips of a 60-minute {suffix}", path, lambda file: read_clips(file, 10, 3600))
    large, small = folder / "100 MB", folder / "5 MB"
    large.write_bytes(random.Random(0).randbytes(100_000_000))
    small.write_bytes(random.Random(0).randbytes(5_000_000))
    cases |= compare("100 MB front to back", large, read_through)
    cases |= compare("5 MB front to back, twice", small, read_twice)
    for minutes in CROSSOVER_MINUTES:
        path = folder / f"{minutes}.mp4"
        repeat_minute(minute, minutes, path, {})
        cases |= compare_whole(path, minutes * 60)
        path.unlink()
    return cases


@dataclass
class Store:
    """A file that can be read in ranges, and what that was."""

    path: Path
    requests: int = 0
    bytes_read: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, start: int, end: int) -> bytes:
        """Return a range, and count it."""
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        with self.lock:
            self.requests += 1
            self.bytes_read += len(data)
        return data

    @property
    def size_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size

    @property
    def seconds(self) -> float:
        """Return what the requests would have taken."""
        return self.requests * REQUEST_SECONDS + self.bytes_read / BYTES_PER_SECOND


class FsspecFile(AbstractBufferedFile):
    """A file over the store with one of fsspec's caches."""

    def __init__(self, store: Store, **cache: Any) -> None:
        self.store = store
        super().__init__(None, str(store.path), size=store.size_bytes, **cache)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.store.fetch(start, end)


Read = Callable[[Any], None]


def compare(name: str, path: Path, read: Read) -> dict[str, dict[str, Any]]:
    stores = {"ours": ours(path, read, ReadAhead())}
    for other, block in FIXED.items():
        stores[other] = fsspec(path, read, cache_type="readahead", block_size=block)
    stores[ADAPTIVE] = fsspec(path, read, cache_type="adaptive", block_size=MIB)
    stores[DOWNLOAD] = Store(path, requests=1, bytes_read=path.stat().st_size)
    return {
        f"{name}, requests": as_case({key: store.requests for key, store in stores.items()}, "requests"),
        f"{name}, bytes": as_case({key: round(store.bytes_read / 1e6, 2) for key, store in stores.items()}, "MB"),
        f"{name}, time": as_case({key: round(store.seconds, 3) for key, store in stores.items()}, "modelled s"),
    }


def compare_whole(path: Path, seconds: int) -> dict[str, dict[str, Any]]:
    """Compare ranges with coming whole, for looks of several lengths at a file of this size."""
    reads: dict[str, Read] = {
        "1 clip": lambda file: read_clips(file, 1, seconds),
        "3 clips": lambda file: read_clips(file, 3, seconds),
        "10 clips": lambda file: read_clips(file, 10, seconds),
        "front to back, then 3 clips": lambda file: (read_through(file), read_clips(file, 3, seconds)),
    }
    whole = Store(path, requests=1, bytes_read=path.stat().st_size)
    return {
        f"{name} of a {whole.size_bytes / 1e6:.0f} MB mp4, in ranges": as_case(
            {"ours": round(ours(path, read, RANGES_ONLY).seconds, 3), DOWNLOAD: round(whole.seconds, 3)}, "modelled s"
        )
        for name, read in reads.items()
    }


def ours(path: Path, read: Read, settings: ReadAhead) -> Store:
    store = Store(path)
    read(KeptRangesFile(store.fetch, store.size_bytes, settings))
    return store


def fsspec(path: Path, read: Read, **cache: Any) -> Store:
    store = Store(path)
    file = FsspecFile(store, **cache)
    read(file)
    if hasattr(file.cache, "close"):
        file.cache.close()
    return store


def as_case(values: dict[str, float], unit: str) -> dict[str, Any]:
    others = {name: value for name, value in values.items() if name != "ours"}
    ratios = {name: round(value / values["ours"], 2) for name, value in others.items()}
    return {"ours": values["ours"], "others": others, "unit": unit, "ratios": ratios}


def read_clips(file: Any, clips: int, seconds: int) -> None:
    """Read as many clips with the product's reader, one at random in each part of the video."""
    places = random.Random(1)
    sampling = ClipSampling(clip_seconds=CLIP_SECONDS, stride_seconds=CLIP_SECONDS)
    wanted = [int((clip + 0.9 * places.random()) * seconds / clips / CLIP_SECONDS) for clip in range(clips)]
    reader = ClipReader(file, "the video", sampling)
    found = sum(len(batch.spans) for batch in reader.read_clips(GEOMETRY, wanted))
    assert found == clips, (found, clips)


def read_through(file: Any) -> None:
    file.seek(0)
    while file.read(BUFFER_BYTES):
        pass


def read_twice(file: Any) -> None:
    read_through(file)
    read_through(file)


def encode_minute() -> bytes:
    """Return one minute of a moving texture under noise, 854x480 h264 at about 0.9 Mbit/s, as MP4."""
    random_numbers = np.random.default_rng(0)
    texture = random_numbers.integers(0, 255, (120, 216, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    grain = random_numbers.integers(0, 13, (64, 480, 854, 1), dtype=np.uint8)
    buffer = io.BytesIO()
    options = {"preset": "veryfast", "g": "48", "sc_threshold": "0", "threads": "1"}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 854, 480, "yuv420p", 900_000
        for index in range(60 * FRAMES_PER_SECOND):
            shown = texture[index % 480 : index % 480 + 480, 2 * index % 854 : 2 * index % 854 + 854]
            frame = np.ascontiguousarray(shown // 2 + grain[index % 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def repeat_minute(minute: bytes, times: int, path: Path, options: dict[str, str]) -> None:
    """Write the minute's packets as often, one minute after another."""
    container_format = {".mp4": "mp4", ".mkv": "matroska", ".ts": "mpegts"}[path.suffix]
    with av.open(os.fspath(path), "w", format=container_format, options=options) as target:
        stream = None
        for repetition in range(times):
            with av.open(io.BytesIO(minute)) as source:
                pattern = source.streams.video[0]
                stream = stream or target.add_stream_from_template(pattern)
                shift = int(Fraction(60 * repetition) / pattern.time_base)
                for packet in source.demux(pattern):
                    if packet.dts is not None:
                        packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                        packet.stream = stream
                        target.mux(packet)


if __name__ == "__main__":
    main()
