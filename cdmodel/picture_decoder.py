"""Packets in, good frames out: one codec context, with everything that came out of it counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cdmodel.av1_units import Av1Thinner
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_survey import DecodeTally, StreamSurvey
from cdmodel.errors import UnsupportedCodec
from cdmodel.open_stream import check_size

SKIPPING_CODECS = ("h264", "hevc", "mpeg2video", "mpeg4")
"""Those whose decoders leave out single pictures that no other refers to, and hand out all others unchanged. Those of VP9
know no skipping, and that of AV1 none that changes from packet to packet."""
THINNED_CODECS = ("libdav1d",)
"""Those decoders whose packets are cut before they get them; all that decode AV1 here."""
Skip = Literal["DEFAULT", "NONREF", "NONKEY"]


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A packet's place in the order of decoding. PyAV finds it by its address: never may two packets share one."""

    number: int


class PictureDecoder:
    """Decodes one stream. Damage goes into the survey, work into the tally."""

    def __init__(
        self, uri: str, context: VideoCodecContext, limits: DecodeLimits, survey: StreamSurvey, tally: DecodeTally
    ) -> None:
        self._uri = uri
        self._context = context
        self._limits = limits
        self._survey = survey
        self._tally = tally
        self._skip: Skip = "DEFAULT"
        # A GPU's decoder knows no skipping.
        self._skips_unreferred = context.name in SKIPPING_CODECS and not context.is_hwaccel
        self._thinner = Av1Thinner(context.extradata or b"") if context.name in THINNED_CODECS else None
        self._number = 0
        """Of the latest packet, in the order of decoding."""
        self._damaged_number: int | None = None
        self.has_met_damage = False
        context.copy_opaque = True

    def decode(self, packet: Packet[VideoStream], *, is_wanted: bool = True) -> Iterator[VideoFrame]:
        """Yield the good frames that the decoder hands out for this packet; of earlier packets, where they are reordered.

        Corrupt frames, and those predicted from such, are counted and left out. A picture that is not wanted may be left
        out if no other refers to it.
        """
        self._number += 1
        if packet.opaque is None:
            packet.opaque = _Place(self._number)
        if self._skips_unreferred and self._skip != "NONKEY":
            self._set_skip("DEFAULT" if is_wanted else "NONREF")
        if self._thinner is None:
            return self._keep_good(packet)
        if is_wanted or packet.is_keyframe:
            self._thinner.learn(memoryview(packet))
            return self._keep_good(packet)
        needed_bytes = self._thinner.count_needed_bytes(memoryview(packet))
        return self._keep_good(_cut(packet, needed_bytes)) if needed_bytes else iter(())

    def skip_all_but_keyframes(self) -> None:
        """Leave out, from now on, what the decoder itself does not take for a keyframe."""
        self._set_skip("NONKEY")

    def drain(self) -> Iterator[VideoFrame]:
        """Yield the good frames that the decoder has kept back, and make it ready for a keyframe."""
        yield from self._keep_good(None)
        self._context.flush_buffers()

    def _set_skip(self, skip: Skip) -> None:
        if skip != self._skip:
            self._context.skip_frame = skip
            self._skip = skip

    def _keep_good(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        try:
            frames: Sequence[VideoFrame] = self._context.decode(packet)
        except av.error.DecoderNotFoundError as error:
            raise UnsupportedCodec(self._uri, f"no decoder for {self._context.name}") from error
        except av.error.EOFError:
            # Drained before, with nothing fed since.
            return
        except MemoryError:
            # Where memory is limited: no damage of the video. libav's own is a FFmpegError too.
            raise
        except av.error.FFmpegError:
            self._meet_damage(self._number)
            self._survey.packets_damaged += 1
            return
        self._tally.frames_decoded += len(frames)
        for frame in frames:
            check_size(self._uri, frame.width, frame.height, self._limits)
            if self._is_sound(frame):
                yield frame
            else:
                self._survey.frames_corrupt += 1

    def _meet_damage(self, number: int) -> None:
        self.has_met_damage = True
        self._damaged_number = number

    def _is_sound(self, frame: VideoFrame) -> bool:
        """Tell whether a frame shows what was recorded.

        What is predicted from a damaged picture shows whatever the decoder's memory held, and no flag says so: of what was
        decoded after it, everything up to the next keyframe is suspect.
        """
        number = frame.opaque.number if isinstance(frame.opaque, _Place) else self._number
        if frame.is_corrupt:
            self._meet_damage(number)
        if self._damaged_number is None or number < self._damaged_number:
            return True
        if frame.key_frame and number > self._damaged_number:
            self._damaged_number = None
            return True
        return False


def _cut(packet: Packet[VideoStream], size: int) -> Packet[VideoStream]:
    """Return the packet's first bytes as a packet like it, which takes over its opaque object."""
    if size == packet.size:
        return packet
    start = cast("Packet[VideoStream]", Packet(bytes(memoryview(packet)[:size])))
    start.pts, start.dts, start.duration = packet.pts, packet.dts, packet.duration
    start.time_base = packet.time_base
    # PyAV finds it by its address and forgets it with the first packet that had it: never may two have the same.
    opaque, packet.opaque = packet.opaque, None
    start.opaque = opaque
    return start
