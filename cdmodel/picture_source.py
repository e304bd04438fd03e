"""Where pictures are decoded and turned into pixels: what a reader must know of it."""

from __future__ import annotations

from typing import Any, Protocol

from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from cdmodel.clips import Pixels
from cdmodel.picture_conversion import PictureConverter


class PixelConverter(Protocol):
    """Turns the pictures of one stream into pixels of one size."""

    def allocate(self, shape: tuple[int, ...]) -> Pixels:
        """Return memory for uint8 pixels, with anything in it, where ``convert_into`` can write."""

    def convert_into(self, pixels_CHW: Any, frame: VideoFrame) -> None:
        """Write the whole picture, upright, as RGB uint8 [C, H, W].

        Raises:
            GpuLost: the picture is not where it should be.
        """


class PictureSource(Protocol):
    """Where pictures are decoded, and stay until a model gets them."""

    @property
    def on_gpu(self) -> bool:
        """Whether a doubt is settled by decoding on the CPU."""

    def hwaccel(self) -> HWAccel | None:
        """Return what a container must be opened with."""

    def converter(self, height: int, width: int, codec: str) -> PixelConverter:
        """Return a converter for one pass over one stream of a codec, named as its decoder is."""


class CpuPictures:
    """Pictures that the CPU decodes and converts."""

    on_gpu = False

    def hwaccel(self) -> None:
        """Return that nothing but the CPU decodes."""

    def converter(self, height: int, width: int, codec: str) -> PictureConverter:
        """Return a converter for one pass over one stream."""
        return PictureConverter(height, width)


CPU_PICTURES = CpuPictures()
