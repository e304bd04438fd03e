"""Decoding on an NVIDIA GPU (NVDEC): pictures are decoded, scaled and converted on the device, and stay there.

Through libav's hardware decoder, which hands out NV12 (8 bits) or P010 (10 bits, in the upper ones of 16) in the device's
memory; PyAV exports their planes by DLPack, without a copy. Conversion does what ``picture_conversion`` does, in float32:
planes are scaled with libswscale's bilinear filter, then converted to RGB. Pixels may differ from the CPU's by a few levels.

Unproven: written without a GPU at hand. See docs/decoding.md.
C channels, H height, W width; h and w of chroma.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from cdmodel.decode_plan import GpuLost
from cdmodel.picture_conversion import Orientations

BT601 = (0.299, 0.114)
BT709 = (0.2126, 0.0722)
BT2020 = (0.2627, 0.0593)
LUMA_WEIGHTS = {1: BT709, 4: (0.30, 0.11), 7: (0.212, 0.087), 9: BT2020, 10: BT2020}
"""Weights of red and blue in luma, by the tag of the matrix (ITU-T H.273, MatrixCoefficients); BT.601 for all others and where
there is none, as libswscale has it."""
LEFT_SITED_CODECS = ("h264", "hevc", "mpeg2video", "mpeg4")
"""Those whose chroma libav takes to lie on the left luma sample of each pair, if the stream does not say otherwise, which PyAV
does not tell; that of all others is taken to lie in the middle."""
CODE_UNITS = {"nv12": (1.0, 255.0), "p010le": (256.0, 1023 / 4)}
"""By pixel format: what a step of an eight-bit code is in the plane's numbers, and the highest code in such steps."""


class NvdecPictures:
    """Pictures that one GPU decodes and converts."""

    on_gpu = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def hwaccel(self) -> HWAccel:
        """Return what a container must be opened with, in the same thread.

        Raises:
            GpuLost: the device takes no work.
        """
        # libav refuses a primary context that somebody else, here torch, has made with other flags than its own (ENOTSUP); it
        # takes one that is current. Any work on the device makes torch's current in this thread.
        with _on_device("cannot be used"):
            torch.zeros(1, device=self._device)
        return HWAccel(
            "cuda",
            device=str(self._device.index or 0),
            allow_software_fallback=True,
            is_hw_owned=True,
            options={"primary_ctx": "0", "current_ctx": "1"},
        )

    def converter(self, height: int, width: int, codec: str) -> DeviceConverter:
        """Return a converter for one pass over one stream."""
        return DeviceConverter(height, width, codec, self._device)


class DeviceConverter:
    """Scales and converts the pictures of one stream on the device they are on."""

    def __init__(self, height: int, width: int, codec: str, device: torch.device) -> None:
        self._height = height
        self._width = width
        self._device = device
        self._chroma_shift = 0.25 if codec in LEFT_SITED_CODECS else 0.0
        """By how much of a sample chroma lies left of the middle."""
        self._orientations = Orientations()
        self._filters: dict[tuple[int, int, float], Tensor] = {}

    def allocate(self, shape: tuple[int, ...]) -> Tensor:
        """Return memory of the device for pixels, with anything in it.

        Raises:
            GpuLost: the device has no memory left.
        """
        with _on_device("has no room for clips"):
            return torch.empty(shape, dtype=torch.uint8, device=self._device)

    def convert_into(self, pixels_CHW: Tensor, frame: VideoFrame) -> None:
        """Write the whole picture, upright, as RGB of the wanted size; done when this returns.

        The frame's own matrix and range count; untagged means BT.601 and limited.

        Raises:
            GpuLost: the CPU has decoded the picture, it is of a format unknown here, or the device fails.
        """
        if frame.format.name != "cuda" or frame.sw_format is None:
            raise GpuLost("the GPU's decoder does not take this video")
        if frame.sw_format.name not in CODE_UNITS:
            raise GpuLost(f"the GPU's decoder gives pictures of {frame.sw_format.name}")
        quarter_turns, mirrored = self._orientations.read(frame)
        height, width = self._height, self._width
        if quarter_turns % 2:
            height, width = width, height
        with _on_device("cannot convert a picture"):
            luma_HW, chroma_hw2 = (_to_tensor(plane) for plane in frame.planes)
            luma_HW = self._scale(luma_HW, height, width, shift=0.0)
            chroma_2HW = self._scale(chroma_hw2.permute(2, 0, 1), height, width, shift=self._chroma_shift)
            rgb_CHW = _to_rgb(luma_HW, chroma_2HW, frame)
            upright_CHW = torch.rot90(rgb_CHW, quarter_turns, dims=(1, 2))
            pixels_CHW.copy_(upright_CHW.flip(2) if mirrored else upright_CHW)
            if self._device.type == "cuda":
                # The decoder may overwrite the frame as soon as it is let go.
                torch.cuda.current_stream(self._device).synchronize()

    def _scale(self, samples: Tensor, height: int, width: int, *, shift: float) -> Tensor:
        """Return samples [..., H, W] scaled to [..., height, width], as of a picture ``shift`` samples further right."""
        source_height, source_width = samples.shape[-2:]
        narrow = samples @ self._filter(source_width, width, shift).T
        return self._filter(source_height, height, 0.0) @ narrow

    def _filter(self, samples: int, outputs: int, shift: float) -> Tensor:
        key = (samples, outputs, shift)
        if key not in self._filters:
            self._filters[key] = _triangles(samples, outputs, shift).to(self._device)
        return self._filters[key]


@contextmanager
def _on_device(failure: str) -> Iterator[None]:
    """Turn what torch, or PyAV, cannot do there into GpuLost: the CPU may still."""
    try:
        yield
    except RuntimeError as error:
        raise GpuLost(f"the GPU {failure} ({str(error).splitlines()[0]})") from error


def find_gpu() -> NvdecPictures | str:
    """Return this process's GPU, or why there is none to decode on. Whether it decodes a video only its frames tell."""
    if "cuda" not in hwdevices_available():
        return "this build of PyAV knows no decoder on a GPU"
    if not torch.cuda.is_available():
        return "this worker sees no CUDA device"
    return NvdecPictures(torch.device("cuda", torch.cuda.current_device()))


def _to_tensor(plane: VideoPlane) -> Tensor:
    """Return a plane as float32: luma [H, W], or both kinds of chroma [h, w, 2]."""
    # A capsule, since PyAV takes no stream; libav works on the default one, as torch does.
    samples: Tensor = from_dlpack(plane.__dlpack__())
    return samples.float()


def _triangles(samples: int, outputs: int, shift: float) -> Tensor:
    """Return the weight [outputs, samples] of every sample in every output: libswscale's bilinear filter.

    A triangle that reaches to the next output where a picture shrinks, to the next sample where it grows. What it finds beyond
    the picture's edge is the sample at the edge.
    """
    step = samples / outputs
    reach = max(step, 1.0)
    beyond = math.ceil(reach) + 1
    centres_O = (torch.arange(outputs, dtype=torch.float64) + 0.5) * step - 0.5 + shift
    positions_P = torch.arange(-beyond, samples + beyond)
    weights_OP = (1 - (positions_P - centres_O[:, None]).abs() / reach).clamp(min=0)
    weights_OP /= weights_OP.sum(dim=1, keepdim=True)
    inside_OS = torch.zeros(outputs, samples, dtype=torch.float64)
    return inside_OS.index_add_(1, positions_P.clamp(0, samples - 1), weights_OP).float()


def _to_rgb(luma_HW: Tensor, chroma_2HW: Tensor, frame: VideoFrame) -> Tensor:
    """Return RGB uint8 [C, H, W] of planes in the frame's own code (ITU-T H.273, equations of MatrixCoefficients)."""
    assert frame.sw_format is not None
    unit, peak = CODE_UNITS[frame.sw_format.name]
    if frame.color_range == ColorRange.JPEG:
        luma_black, luma_reach, chroma_reach = 0.0, peak, peak
    else:
        luma_black, luma_reach, chroma_reach = 16.0, 219.0, 224.0
    y_HW = (luma_HW / unit - luma_black) * (255 / luma_reach)
    cb_HW, cr_HW = (chroma_2HW / unit - 128) * (255 / chroma_reach)
    red, blue = LUMA_WEIGHTS.get(frame.colorspace, BT601)
    red_HW, blue_HW = y_HW + 2 * (1 - red) * cr_HW, y_HW + 2 * (1 - blue) * cb_HW
    green_HW = (y_HW - red * red_HW - blue * blue_HW) / (1 - red - blue)
    return torch.stack((red_HW, green_HW, blue_HW)).round().clamp(0, 255).to(torch.uint8)
