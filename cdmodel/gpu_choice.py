"""Whether a GPU's decoder takes a video, and whether that is thought to be worthwhile. Pure arithmetic on its header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from av.codec.hwaccel import HWDeviceType

from cdmodel.open_stream import OpenStream
from cdmodel.sampling import ClipGeometry, ClipSampling

EIGHT_BITS = frozenset(("yuv420p", "yuvj420p"))
EIGHT_OR_TEN_BITS = EIGHT_BITS | {"yuv420p10le"}
NVDEC_FORMATS = {
    "h264": EIGHT_BITS,
    "hevc": EIGHT_OR_TEN_BITS,
    "vp8": EIGHT_BITS,
    "vp9": EIGHT_OR_TEN_BITS,
    "av1": EIGHT_OR_TEN_BITS,
    "mpeg1video": EIGHT_BITS,
    "mpeg2video": EIGHT_BITS,
    "mpeg4": EIGHT_BITS,
    "vc1": EIGHT_BITS,
}
"""What NVDEC decodes, by codec (NVIDIA Video Codec SDK, support matrix), as far as the conversion here knows it. Not every card
decodes all of it: what one cannot is decoded by the CPU once its first picture has told."""
LEAST_PIXELS = 1280 * 720
"""Below this ``auto`` leaves a picture to the CPU. A guess, not measured."""
LEAST_FRAMES_PER_SECOND = 4.0
"""Where fewer frames are wanted of a second of video, ``auto`` leaves it to the CPU, which decodes few of the others; NVDEC
decodes them all. A guess, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedVideo:
    """What a stream's header says of its pictures."""

    codec: str
    pixel_format: str | None
    width: int
    height: int
    has_gpu_decoder: bool
    """Whether libav hands the codec to a GPU at all; it decodes AV1 with a library that does not."""


def look_at(opened: OpenStream) -> CodedVideo:
    """Return what the header of an open stream says."""
    context = opened.stream.codec_context
    return CodedVideo(
        codec=context.name,
        pixel_format=context.pix_fmt,
        width=context.width,
        height=context.height,
        has_gpu_decoder=any(config.device_type == HWDeviceType.cuda for config in context.codec.hardware_configs),
    )


def refuse_gpu(
    video: CodedVideo, geometry: ClipGeometry, sampling: ClipSampling, device: Literal["cuda", "auto"]
) -> str | None:
    """Return why the CPU shall decode a video; None where the GPU shall."""
    if not video.has_gpu_decoder or video.codec not in NVDEC_FORMATS:
        return f"{video.codec} has no decoder on a GPU"
    if video.pixel_format not in NVDEC_FORMATS[video.codec]:
        return f"{video.codec} of {video.pixel_format} is not decoded on a GPU"
    if video.width % 2 or video.height % 2:
        # PyAV hands out no chroma for the last column and row.
        return f"pictures of {video.width} x {video.height}, an odd number, are not decoded on a GPU"
    if geometry.keyframes_only:
        return "keyframes alone are not decoded on a GPU"
    return _not_worthwhile(video, geometry, sampling) if device == "auto" else None


def _not_worthwhile(video: CodedVideo, geometry: ClipGeometry, sampling: ClipSampling) -> str | None:
    if video.width * video.height < LEAST_PIXELS:
        return f"pictures of {video.width} x {video.height} are not worth a GPU"
    wanted_per_second = geometry.frames / sampling.stride_seconds
    if wanted_per_second < LEAST_FRAMES_PER_SECOND:
        return f"{wanted_per_second:g} frames of a second are not worth a GPU"
    return None
