"""Peak memory of a worker process: a video of an hour against one of a minute, same picture, same models.

Each is labeled by ``label_shard`` in a process of its own, with the demo bundle; its decoder counts too.
Ratio = minute / hour: 1 means that memory does not grow with length. Usage: python benchmarks/bench_memory.py [--json]
"""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import tempfile
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
from document import argument_parser, document

from cdmodel.bundle import DEMO_BUNDLE, model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeLimits
from cdmodel.types import Shard, VideoRef
from tasks.label_shard import LabelingSpec, label_shard
from tasks.worker_models import WorkerModels

FRAMES_PER_SECOND = 25
MINUTE_FRAMES = 60 * FRAMES_PER_SECOND
REPETITIONS = 3
KIB_PER_MIB = 1024


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        minute = encode_minute()
        videos = {minutes: Path(folder) / f"{minutes}.mp4" for minutes in (1, 60)}
        for minutes, path in videos.items():
            repeat_minute(minute, minutes, path)
        peaks: dict[int, list[float]] = {minutes: [] for minutes in videos}
        for repetition in range(REPETITIONS):
            for minutes, path in videos.items():
                peaks[minutes].append(peak_mib(path, Path(folder) / f"out-{minutes}-{repetition}"))
    hour, short = max(peaks[60]), max(peaks[1])
    cases = {
        "peak memory of a worker, 60-minute 640x360 h264 video": {
            "ours": round(hour, 1),
            "others": {"1-minute video": round(short, 1)},
            "unit": "MiB",
            "ratios": {"1-minute video": round(short / hour, 3)},
        }
    }
    report = document("memory", cases, REPETITIONS)
    print(json.dumps(report) if arguments.json else f"60 minutes {hour:.0f} MiB, 1 minute {short:.0f} MiB")


def encode_minute() -> bytes:
    """Return one minute of moving noise as MP4."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "ultrafast", "g": "48"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(MINUTE_FRAMES):
            shown = texture[index % 360 : index % 360 + 360, index % 640 : index % 640 + 640]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def repeat_minute(minute: bytes, times: int, path: Path) -> None:
    """Write the minute's packets ``times`` times, one after another."""
    with av.open(str(path), "w") as target:
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


def peak_mib(video: Path, out: Path) -> float:
    """Label one video in a new process and return the peak resident memory of that process and its decoder."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(label_one, (str(video), str(out))))


def label_one(video: str, out: str) -> float:
    """Run in the child: label, then tell the peak."""
    manifest = read_manifest(DEMO_BUNDLE)
    spec = LabelingSpec(
        out=out,
        run_id="memory",
        launch_id="memory",
        run_date=datetime.now(UTC).date(),
        corpus="memory",
        fingerprint="memory",
        models=WorkerModels(bundle=None, model_version=model_version(manifest), allowed_builders=(), model_threads=1),
        sampling=manifest.sampling,
        cascade=CascadeSettings(policy=manifest.default_policy, aggregation=manifest.default_aggregation),
        limits=DecodeLimits(),
        prices=None,
    )
    shard = Shard(shard_id="one", videos=(VideoRef(video_id="v", uri=video, video_version="1", size_bytes=None),))
    receipt = label_shard(shard, spec)
    assert receipt.videos_labeled == 1, receipt
    peaks_kib = [
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        *(peak_kib(child.pid) for child in psutil.Process().children()),
    ]
    return sum(peaks_kib) / KIB_PER_MIB


def peak_kib(process_id: int) -> float:
    """Return the peak resident memory of another process."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
