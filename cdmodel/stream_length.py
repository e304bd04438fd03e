"""How long a video is, from its packets: no picture is decoded."""

from __future__ import annotations

from collections.abc import Callable

from cdmodel.decode_plan import PlanBroken, PlanFreedom
from cdmodel.decode_survey import StreamSurvey
from cdmodel.frame_clock import start_clock
from cdmodel.index_jumper import IndexJumper
from cdmodel.open_stream import OpenStream, read_packets
from cdmodel.packet_timeline import PacketTimeline, Picture


def measure_length(
    opened: OpenStream, survey: StreamSurvey, freedom: PlanFreedom, on_packet: Callable[[], None]
) -> None:
    """Fill the survey from the stream's packets, or from the first and the last where the container's index says enough.

    Raises:
        PlanBroken: packets do not tell.
    """
    clock = start_clock(opened.stream)
    timeline = PacketTimeline(clock)
    jumper = IndexJumper(opened, clock, index_is_true=False)
    end_seconds = opened.declared.duration_seconds or 0.0
    for packet in read_packets(opened, survey, on_packet):
        timeline.push(packet, Picture(packet.is_keyframe))
        if freedom.index and jumper.is_worthwhile(end_seconds, timeline):
            survey.is_gapless = False
            timeline.push(jumper.land(end_seconds, timeline), Picture(is_keyframe=True))
    timeline.finish()
    if timeline.doubt is not None:
        raise PlanBroken(timeline.doubt, lost="packets")
    survey.clock_has_jumped = clock.has_jumped
    survey.frames_good, survey.observed_seconds = timeline.frames, timeline.end_seconds
    if not survey.frames_good:
        raise PlanBroken("no packet tells when its picture is shown", lost="packets")
