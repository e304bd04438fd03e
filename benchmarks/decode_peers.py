"""Readers of other projects, for ``decode.py``, in a process of their own: they may need another interpreter than ours.

Knows nothing of this project. One JSON object a line: the first line written tells the versions; then each line read is a
request and each line written its answer.

    request  {"reader": name, "path": video, "frames": [index, ...], "height": h, "width": w, "save": path or null}
    answer   {"cpu_seconds": s, "pts_seconds": [t, ...]} or {"error": text}

A reader opens the video, reads the frames of those indices, ascending, scales them to uint8 RGB and closes it, on one thread;
``save`` names a file for the pixels [N, 3, H, W]. CPU seconds are those of the process, user and system.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

CLIP_FRAMES = 16
"""How many full-size frames are held at once: more would cost memory traffic that no careful user pays."""

Pixels = list[Any]
Reading = tuple[Pixels, list[float]]
"""Arrays [n, 3, H, W] or [n, H, W, 3] uint8, and when each frame is shown."""


def main() -> None:
    readers, versions = load_readers()
    print(json.dumps({"versions": versions, "readers": sorted(readers)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = serve(readers[request["reader"]], request)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


def load_readers() -> tuple[dict[str, Callable[..., Reading]], dict[str, str]]:
    """Return the readers that can be imported here, and what versions they are."""
    readers: dict[str, Callable[..., Reading]] = {}
    versions: dict[str, str] = {}
    try:
        import torch
        import torchcodec

        torch.set_num_threads(1)
        readers |= {"torchcodec": read_with_torchcodec, "torchcodec Resize": read_with_torchcodec_resize}
        versions |= {
            "torch": torch.__version__,
            "torchcodec": torchcodec.__version__,
            "torchcodec's FFmpeg": str(torchcodec.ffmpeg_major_version),
        }
    except (ImportError, OSError, RuntimeError) as error:
        versions["torchcodec"] = f"not loaded: {str(error).splitlines()[0]}"
    try:
        import decord

        readers["decord"] = read_with_decord
        versions["decord"] = decord.__version__
    except (ImportError, OSError) as error:
        versions["decord"] = f"not loaded: {str(error).splitlines()[0]}"
    return readers, versions


def serve(read: Callable[..., Reading], request: dict[str, Any]) -> dict[str, Any]:
    started = cpu_seconds()
    pixels, pts_seconds = read(request["path"], request["frames"], request["height"], request["width"])
    taken = cpu_seconds() - started
    if request["save"]:
        import numpy as np

        stacked = np.concatenate([np.asarray(part) for part in pixels])
        np.save(request["save"], stacked if stacked.shape[1] == 3 else stacked.transpose(0, 3, 1, 2))
    return {"cpu_seconds": taken, "pts_seconds": pts_seconds}


def cpu_seconds() -> float:
    """Return what this process and its finished children have used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def read_with_torchcodec(path: str, frames: Sequence[int], height: int, width: int) -> Reading:
    """Exact seek mode, full-size frames a clip at a time, scaled by torch with antialiasing."""
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1)
    pixels: Pixels = []
    pts_seconds: list[float] = []
    for first in range(0, len(frames), CLIP_FRAMES):
        batch = decoder.get_frames_at(list(frames[first : first + CLIP_FRAMES]))
        pixels.append(interpolate(batch.data, size=(height, width), mode="bilinear", antialias=True))
        pts_seconds.extend(batch.pts_seconds.tolist())
    return pixels, pts_seconds


def read_with_torchcodec_resize(path: str, frames: Sequence[int], height: int, width: int) -> Reading:
    """Exact seek mode, scaled inside the decoder."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1, transforms=[Resize((height, width))])
    batch = decoder.get_frames_at(list(frames))
    return [batch.data], batch.pts_seconds.tolist()


def read_with_decord(path: str, frames: Sequence[int], height: int, width: int) -> Reading:
    """Scaled inside the decoder."""
    from decord import VideoReader, cpu

    reader = VideoReader(path, ctx=cpu(0), width=width, height=height, num_threads=1)
    pixels = reader.get_batch(list(frames)).asnumpy()
    return [pixels], reader.get_frame_timestamp(list(frames))[:, 0].tolist()


if __name__ == "__main__":
    main()
