"""Videos whose headers promise more than there is: sizes and numbers of frames that nobody could hold.

Run as a script with the name of one of the functions and its number, it reads that video and writes what it took.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
import time
import zlib

from odd_videos import Recipe, encode, odd_video

from cdmodel.decode import ClipReader
from cdmodel.errors import VideoError
from cdmodel.sampling import ClipGeometry, ClipSampling

HUGE = 100_000
LARGE = 16_000
"""Not so large that libav refuses by itself."""
MOST_ADDRESSES = 6 * 2**30


def promise_png(side: int) -> bytes:
    """Return a PNG picture whose header claims to be so large, and which holds next to nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(bytes(100)))


def promise_gif(side: int) -> bytes:
    """Return a GIF whose screen and first picture claim to be so large."""
    content = bytearray(odd_video("uneven.gif"))
    content[6:10] = struct.pack("<HH", side, side)
    picture = content.index(b"\x2c", 13 + 768)
    content[picture + 5 : picture + 9] = struct.pack("<HH", side, side)
    return bytes(content)


def promise_h264(side: int) -> bytes:
    """Return a raw stream of H.264 whose parameter set claims to be so large (ITU-T H.264, 7.3.2.1.1)."""
    macroblocks = side // 16
    # Profile 66, no constraints, level 6.2; identifiers and coding choices, one reference; then the size.
    fields = (
        _ue(0) + _ue(0) + _ue(2) + _ue(1) + "0" + _ue(macroblocks - 1) + _ue(macroblocks - 1) + "1" + "1" + "0" + "0"
    )
    sps = bytes((0x67, 66, 0, 62)) + _to_bytes(fields + "1")
    pps = bytes((0x68,)) + _to_bytes(_ue(0) * 2 + "00" + _ue(0) * 3 + "000" + _ue(0) * 3 + "000" + "1")
    # A picture of its own: first macroblock 0, all of it intra, parameter set 0, frame 0, picture 0.
    picture = bytes((0x65,)) + _to_bytes(_ue(0) + _ue(7) + _ue(0) + "0000" + _ue(0) + "00" + _ue(0) + _ue(0) + "1")
    return b"".join(b"\0\0\0\1" + unit for unit in (sps, pps, picture + bytes(range(1, 200)))) * 3


def promise_ivf(side: int) -> bytes:
    """Return a stream of VP9 whose container and first frames claim to be so large."""
    content = bytearray(odd_video("vp9.ivf"))
    content[12:16] = struct.pack("<HH", side, side)
    return bytes(content)


def promise_frames(count: int) -> bytes:
    """Return an MP4 file that claims so many frames, all in its one chunk."""
    content = bytearray(encode(Recipe(codec="mjpeg", pix_fmt="yuvj420p", frames=3)))
    times = content.index(b"stts") + 8
    content[times : times + 12] = struct.pack(">III", 1, count, 1)
    sizes = content.index(b"stsz") + 8
    # One size for all: no table is needed.
    content[sizes : sizes + 8] = struct.pack(">II", 1, count)
    chunks = content.index(b"stsc") + 8
    content[chunks : chunks + 16] = struct.pack(">IIII", 1, 1, count, 1)
    return bytes(content)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _ue(number: int) -> str:
    """Return the bits of an unsigned Exp-Golomb code (ITU-T H.264, 9.1)."""
    bits = f"{number + 1:b}"
    return "0" * (len(bits) - 1) + bits


def _to_bytes(bits: str) -> bytes:
    """Return bits as bytes, with the bytes that keep them from looking like a start code."""
    bits += "0" * (-len(bits) % 8)
    plain = bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))
    return plain.replace(b"\0\0\1", b"\0\0\3\1").replace(b"\0\0\0", b"\0\0\3\0")


PROMISES = {
    promise.__name__: promise for promise in (promise_png, promise_gif, promise_h264, promise_ivf, promise_frames)
}


def tell_outcome(content: bytes) -> dict[str, object]:
    """Read a video in this process and return the outcome, CPU seconds and the memory it took."""
    before_bytes, started = _peak_bytes(), time.process_time()
    reader = ClipReader(io.BytesIO(content), "test:promise", ClipSampling())
    try:
        clips = sum(len(batch.spans) for batch in reader.read_clips(ClipGeometry(frames=2, height=24, width=36)))
        outcome = f"{clips} clips"
    except VideoError as error:
        outcome = error.kind
    megabytes = (_peak_bytes() - before_bytes) / 2**20
    return {"outcome": outcome, "cpu_seconds": time.process_time() - started, "megabytes": megabytes}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    # Should a promise be believed, the machine is not to pay for it.
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    name, number = sys.argv[1:]
    sys.stdout.write(json.dumps(tell_outcome(PROMISES[name](int(number)))))
