"""Moves an open container to the keyframe before a moment, by the container's index."""

from __future__ import annotations

import itertools
import math

import av
from av.packet import Packet
from av.video.stream import VideoStream

from cdmodel.decode_plan import PlanBroken
from cdmodel.frame_clock import LONGEST_GAP_SECONDS, FrameClock
from cdmodel.open_stream import OpenStream
from cdmodel.packet_timeline import PacketTimeline

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
JUMPING_CONTAINERS = (MP4, MATROSKA)
"""Those whose index leads where it says; a seek in MPEG-TS or AVI does not."""
SHORTEST_JUMP_SECONDS = 1.0
"""Reading the packets of a second takes about as long as a jump."""
BLIND_JUMP_SECONDS = 10.0
"""Matroska's index is read at the first jump only, so the first one is made without looking."""
LANDINGS_TRIED = 4


class IndexJumper:
    """Jumps forward in one container.

    Args:
        opened: the stream.
        clock: of its frames; nothing is jumped over before it has started, or once it had to be mended.
        index_is_true: an earlier pass has found that it never has to be mended.
    """

    def __init__(self, opened: OpenStream, clock: FrameClock, index_is_true: bool) -> None:  # noqa: FBT001 - a fact
        self._container = opened.container
        self._stream = opened.stream
        self._clock = clock
        self._is_matroska = opened.container.format.name == MATROSKA
        self._may_be_true = opened.container.format.name in JUMPING_CONTAINERS
        self._is_known_true = index_is_true
        self._has_jumped = False
        self._refused_seconds = -1.0
        self._entries_checked = 0

    def is_worthwhile(self, moment_seconds: float, timeline: PacketTimeline) -> bool:
        """Tell whether a keyframe before the moment is known that lies well beyond what has been read."""
        if not timeline.start_seconds + SHORTEST_JUMP_SECONDS < moment_seconds < math.inf or not timeline.frames:
            return False
        if moment_seconds == self._refused_seconds or not self._may_be_true or self._clock.has_jumped:
            return False
        if self._skipped_seconds(moment_seconds, timeline) >= SHORTEST_JUMP_SECONDS and self._is_index_true():
            return True
        self._refused_seconds = moment_seconds
        return False

    def land(self, moment_seconds: float, timeline: PacketTimeline) -> Packet[VideoStream]:
        """Return the packet of the last indexed keyframe shown at or before the moment; those after it are read next.

        Raises:
            PlanBroken: the index leads astray.
        """
        target = self._clock.ticks_at(moment_seconds)
        self._has_jumped = True
        # Where the index is coarser than it seemed, one jump is all it gives for this moment.
        self._refused_seconds = moment_seconds
        for _ in range(LANDINGS_TRIED):
            try:
                self._container.seek(target, stream=self._stream)
                first = next(self._container.demux(self._stream), None)
            except av.error.FFmpegError as error:
                raise PlanBroken(f"a jump failed ({error.strerror})", lost="index") from error
            if first is None or first.pts is None or not first.is_keyframe:
                break
            if not self._is_index_true():
                raise PlanBroken("the container's clock jumps", lost="index")
            if self._clock.at(first.pts) <= moment_seconds:
                timeline.go_on_at(first.pts)
                return first
            target = (first.pts if first.dts is None else first.dts) - 1
        raise PlanBroken("the container's index leads to the wrong place", lost="index")

    def _skipped_seconds(self, moment_seconds: float, timeline: PacketTimeline) -> float:
        """Return how much of the video a jump would leave out; 0 where none is known to."""
        if timeline.last_dts is None:
            return 0.0
        entries = self._stream.index_entries
        # An index holds stamps of decoding, which run ahead of those of showing.
        found = entries.search_timestamp(self._clock.ticks_at(moment_seconds) - timeline.delay_ticks)
        now_seconds = self._clock.at(timeline.last_dts)
        skipped_seconds = self._clock.at(entries[found].timestamp) - now_seconds if found >= 0 else 0.0
        if self._is_matroska and not self._has_jumped and moment_seconds - now_seconds >= BLIND_JUMP_SECONDS:
            return BLIND_JUMP_SECONDS
        return skipped_seconds

    def _is_index_true(self) -> bool:
        """Tell whether the whole index shows a clock that needs no mending: what is jumped over cannot be looked at."""
        entries = self._stream.index_entries
        if not self._is_known_true and len(entries) != self._entries_checked:
            self._entries_checked = len(entries)
            stamps = [entry.timestamp for entry in entries]
            longest_ticks = LONGEST_GAP_SECONDS / float(self._stream.time_base or 1)
            self._may_be_true = all(
                0 <= later - sooner <= longest_ticks for sooner, later in itertools.pairwise(stamps)
            )
        return self._may_be_true
