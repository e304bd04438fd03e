"""One pass over a video that decodes as little as the wanted frames need.

Packets are read in order and timed before they are decoded (``packet_timeline``), so it is known which pictures a clip
shows. They are held back until a wanted one comes, and let go at the next keyframe if none does: groups of pictures that
nobody wants are never decoded, a group is decoded from its keyframe to its last wanted picture, and of the pictures between
those that no other refers to are left out. Where the container has an index, long stretches are jumped over. What comes out
is bit for bit what a decode of everything would give; wherever that is in doubt, ``PlanBroken`` says so.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator

from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from cdmodel.clip_assembly import ShownFrame
from cdmodel.decode_plan import PlanBroken, PlanFreedom
from cdmodel.decode_survey import StreamSurvey
from cdmodel.frame_clock import FrameClock, start_clock
from cdmodel.index_jumper import IndexJumper
from cdmodel.open_stream import OpenStream, read_packets
from cdmodel.packet_timeline import PacketTimeline, Picture
from cdmodel.picture_decoder import PictureDecoder
from cdmodel.wanted_moments import JoinedMoments, WantedMoments

STAMPLESS_CONTAINERS = ("avi",)
"""What libav gives as the presentation times of their packets is a guess."""
MOST_HELD_PACKETS = 600
"""Where keyframes lie further apart, packets are decoded although nobody may want their group: memory stays bounded."""


class PlannedPass:
    """Reads an open stream from its start.

    Args:
        opened: the stream, at its start.
        decoder: of the stream.
        moments: what is wanted.
        survey: receives what is seen.
        freedom: what may be left out.
        keyframes_only: show keyframes alone.
        index_is_true: an earlier pass has found that the container's clock never jumps.
        on_packet: called for every packet; may raise.
    """

    def __init__(
        self,
        opened: OpenStream,
        decoder: PictureDecoder,
        moments: WantedMoments | JoinedMoments,
        survey: StreamSurvey,
        freedom: PlanFreedom,
        *,
        keyframes_only: bool,
        index_is_true: bool,
        on_packet: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._decoder = decoder
        self._moments = moments
        self._survey = survey
        self._keyframes_only = keyframes_only
        self._on_packet = on_packet
        self.clock: FrameClock = start_clock(opened.stream)
        self._timeline = PacketTimeline(self.clock)
        self._jumper = IndexJumper(opened, self.clock, index_is_true) if freedom.index else None
        self._queue: deque[tuple[Packet[VideoStream], Picture]] = deque()
        """In the order of decoding; the first is one whose use is not known yet."""
        self._candidate: Picture | None = None
        """The latest timed picture: wanted if a moment lies before the next one."""
        self._held: list[tuple[Packet[VideoStream], Picture]] = []
        self._is_decoding = False
        self._due_seconds: list[float] = []
        """When the pictures are shown that the decoder has yet to hand out; a heap."""
        self._latest_shown_seconds = 0.0
        self._out: deque[ShownFrame] = deque()
        if opened.container.format.name in STAMPLESS_CONTAINERS and not keyframes_only:
            raise PlanBroken("the container stores no presentation times", lost="packets")
        if keyframes_only:
            decoder.skip_all_but_keyframes()

    def frames(self) -> Iterator[ShownFrame]:
        """Yield the wanted frames in the order they are shown in.

        Raises:
            PlanBroken: frames may be missing from here on.
        """
        for packet in self._packets():
            self._take(packet)
            yield from self._emit()
            if self._has_all():
                break
        self._take_rest()
        yield from self._emit()

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        for packet in read_packets(self._opened, self._survey, self._on_packet):
            yield packet
            while (landed := self._jump()) is not None:
                self._on_packet()
                yield landed

    def _take(self, packet: Packet[VideoStream]) -> None:
        picture = Picture(packet.is_keyframe)
        packet.opaque = picture
        if picture.is_keyframe or not self._keyframes_only:
            self._queue.append((packet, picture))
        for timed in self._timeline.push(packet, picture):
            self._decide(timed)
        if self._timeline.doubt and not self._keyframes_only:
            raise PlanBroken(self._timeline.doubt, lost="packets")
        while self._queue and self._queue[0][1].wanted is not None:
            self._pass_on(*self._queue.popleft())

    def _decide(self, timed: Picture) -> None:
        """Take the next picture in the order of showing: how long the one before it is shown is known by now."""
        self._survey.frames_good, self._survey.observed_seconds = self._timeline.frames, self._timeline.end_seconds
        if self._keyframes_only and not timed.is_keyframe:
            timed.wanted = False
            return
        if self._candidate is not None:
            assert timed.start_seconds is not None
            self._candidate.wanted = self._moments.take_until(timed.start_seconds)
        self._candidate = timed

    def _take_rest(self) -> None:
        """Decide and decode whatever waits, at the end of the stream or of what is wanted."""
        for timed in self._timeline.finish():
            self._decide(timed)
        if self._candidate is not None:
            end_seconds = self._timeline.end_seconds
            self._candidate.wanted = self._moments.take_until(end_seconds) or self._moments.is_any_left(end_seconds)
        while self._queue:
            self._pass_on(*self._queue.popleft())
        self._drain()

    def _has_all(self) -> bool:
        """Tell whether every wanted picture has been read, and the last wanted clip is known to lie inside the video."""
        return self._moments.next_seconds == math.inf and self._timeline.end_seconds >= self._moments.reach_seconds

    def _pass_on(self, packet: Packet[VideoStream], picture: Picture) -> None:
        """Take a picture, in the order of decoding, of which it is known whether it is wanted."""
        if self._keyframes_only:
            if picture.wanted:
                self._decode(packet, picture)
            return
        if picture.is_keyframe and picture.start_seconds is not None:
            self._begin_group(picture.start_seconds)
        self._held.append((packet, picture))
        if picture.wanted or len(self._held) > MOST_HELD_PACKETS:
            for held in self._held:
                self._decode(*held)
            self._held.clear()

    def _begin_group(self, keyframe_seconds: float) -> None:
        """Let go of what is held before a keyframe, unless wanted pictures shown before it are decoded after it."""
        leading = [waiting for waiting in self._queue if _is_before(waiting[1], keyframe_seconds)]
        if any(picture.wanted for _, picture in leading):
            return
        if self._held and self._is_decoding:
            self._drain()
        if not self._is_decoding:
            self._held.clear()
            for waiting in leading:
                self._queue.remove(waiting)

    def _decode(self, packet: Packet[VideoStream], picture: Picture) -> None:
        self._is_decoding = True
        is_due = _is_due(picture)
        if is_due and picture.start_seconds is not None:
            heapq.heappush(self._due_seconds, picture.start_seconds)
        self._show(self._decoder.decode(packet, is_wanted=is_due))

    def _drain(self) -> None:
        if self._is_decoding:
            self._show(self._decoder.drain())
            self._is_decoding = False
        if self._due_seconds:
            raise PlanBroken("the decoder left out a picture", lost="packets")

    def _show(self, frames: Iterator[VideoFrame]) -> None:
        for frame in frames:
            picture = frame.opaque
            if not isinstance(picture, Picture) or picture.start_seconds is None:
                raise PlanBroken("the decoder gave a frame of no known packet", lost="packets")
            if picture.start_seconds < self._latest_shown_seconds and not self._keyframes_only:
                raise PlanBroken("frames came in another order than their stamps", lost="packets")
            self._latest_shown_seconds = picture.start_seconds
            self._check_off(frame, picture, picture.start_seconds)
            if picture.wanted:
                self._out.append(ShownFrame(frame=frame, start_seconds=picture.start_seconds))
        if self._decoder.has_met_damage:
            raise PlanBroken("a picture is damaged", lost="packets")

    def _check_off(self, frame: VideoFrame, picture: Picture, start_seconds: float) -> None:
        """Take note that a picture came, and that none was left out before it."""
        if picture.is_keyframe and frame.pict_type != PictureType.I:
            raise PlanBroken("a keyframe is not a whole picture", lost="packets")
        if self._due_seconds and self._due_seconds[0] < start_seconds:
            raise PlanBroken("the decoder left out a picture", lost="packets")
        if _is_due(picture):
            heapq.heappop(self._due_seconds)

    def _emit(self) -> Iterator[ShownFrame]:
        while self._out:
            yield self._out.popleft()

    def _jump(self) -> Packet[VideoStream] | None:
        """Go on at the keyframe before the next wanted moment if that saves reading; return its packet."""
        jumper, moment_seconds = self._jumper, self._moments.next_seconds
        if jumper is None or not jumper.is_worthwhile(moment_seconds, self._timeline):
            return None
        if any(picture.wanted for _, picture in self._queue):
            return None
        self._drain()
        self._queue.clear()
        self._held.clear()
        self._candidate = None
        self._survey.is_gapless = False
        return jumper.land(moment_seconds, self._timeline)


def _is_due(picture: Picture) -> bool:
    """Tell whether the decoder must hand it out: a keyframe that it keeps to itself is none to start from."""
    return bool(picture.wanted) or (picture.is_keyframe and picture.start_seconds is not None)


def _is_before(picture: Picture, seconds: float) -> bool:
    return picture.start_seconds is not None and picture.start_seconds < seconds
