"""Frames to the bytes of an MP4 file, in memory. The same frames give the same bytes; knows nothing of files."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import numpy as np
from numpy.typing import NDArray

KEYFRAME_INTERVAL = 48
_OPTIONS = {"preset": "veryfast", "crf": "23", "g": str(KEYFRAME_INTERVAL), "threads": "1"}


def encode_mp4(frames_HWC: Iterable[NDArray[np.uint8]], frames_per_second: int) -> bytes:
    """Encode RGB frames of one even size with H.264, yuv420p, the index before the pictures.

    One thread, so that the bytes do not depend on the machine's cores.
    """
    buffer = io.BytesIO()

    def open_again(url: str, flags: int, options: dict[str, str]) -> io.BytesIO:
        # Moving the index to the front reads back what has been written so far.
        return io.BytesIO(buffer.getvalue())

    muxing = {"movflags": "faststart", "fflags": "+bitexact"}
    with av.open(buffer, mode="w", format="mp4", options=muxing, io_open=open_again) as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options=_OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        sized = False
        for pixels in frames_HWC:
            if not sized:
                stream.height, stream.width = pixels.shape[:2]
                sized = True
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
