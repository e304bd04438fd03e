"""A stand-in for a GPU's decoder: pictures decoded by the CPU, handed on as if they were NV12 or P010 of a device.

What differs from a real one is where the memory is; conversion, its exactness, and what happens when the device gives up are
the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter

from cdmodel.nvdec import DeviceConverter

DEVICE_FORMATS = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}


class DeviceFrame:
    """A frame that says it is on a CUDA device; its planes export the CPU's memory by DLPack."""

    def __init__(self, frame: VideoFrame) -> None:
        # The planes are laid out anew, their samples are the same.
        same = {"src_color_range": frame.color_range, "dst_color_range": frame.color_range}
        same |= {"src_colorspace": Colorspace.DEFAULT, "dst_colorspace": Colorspace.DEFAULT}
        on_device = VideoReformatter().reformat(frame, format=DEVICE_FORMATS[frame.format.name], **same)
        self.format = SimpleNamespace(name="cuda")
        self.sw_format = on_device.format
        self.planes = on_device.planes
        self.colorspace, self.color_range = frame.colorspace, frame.color_range
        self.rotation, self.side_data = frame.rotation, frame.side_data


@dataclass
class FakeGpu:
    """A GPU whose decoder gives up after some pictures, as one does that has never begun after none."""

    pictures: int | None = None
    on_gpu: bool = True

    def hwaccel(self) -> HWAccel | None:
        return None

    def converter(self, height: int, width: int, codec: str) -> FakeConverter:
        return FakeConverter(self, DeviceConverter(height, width, codec, torch.device("cpu")))


class FakeConverter:
    def __init__(self, gpu: FakeGpu, converter: DeviceConverter) -> None:
        self._gpu = gpu
        self._converter = converter
        self.allocate = converter.allocate

    def convert_into(self, pixels_CHW: torch.Tensor, frame: VideoFrame) -> None:
        if self._gpu.pictures is not None:
            self._gpu.pictures -= 1
            if self._gpu.pictures < 0:
                # What libav does where the device takes no more: the CPU decodes.
                self._converter.convert_into(pixels_CHW, frame)
        self._converter.convert_into(pixels_CHW, DeviceFrame(frame))
