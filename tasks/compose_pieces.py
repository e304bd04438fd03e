"""The pieces of one composite: a passage of its class video, once, among passages of backgrounds."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cdmodel.compose import Frame, draw_passage, read_frames
from cdmodel.composites import draw_background_clips, draw_piece_clips
from cdmodel.errors import VideoError
from cdmodel.types import LabeledVideo, VideoRef
from storage.backgrounds import Background
from storage.corpus import VideoFile, open_video
from tasks.compose_settings import ComposeSettings

SegmentRole = Literal["class", "background"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedVideo:
    """A video that was meant to be part of a composite and could not be."""

    uri: str
    role: SegmentRole
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A passage of one video."""

    source: str
    """URI of the video."""
    role: SegmentRole
    frames: list[Frame]


@dataclass(slots=True)
class Composing:
    """What every composite needs, and what has been learned so far."""

    settings: ComposeSettings
    unused: dict[str, UnusedVideo] = field(default_factory=dict)


def compose_pieces(work: Composing, index: int, video: LabeledVideo, pool: Sequence[Background]) -> list[Piece]:
    """Return the pieces of one composite in order of time, none if it cannot be made. Depends on no other composite."""
    settings = work.settings
    random = np.random.default_rng((settings.seed, 2, index))
    fewest, most = settings.class_clips
    frames = _read_passage(work, video.video, "class", int(random.integers(fewest, most + 1)), (index, 0))
    if not frames:
        return []
    clips = draw_background_clips(len(frames) // settings.frames_per_clip, settings.distractors, random)
    pieces: list[Piece] = []
    if clips:
        pieces = _draw_background(work, index, clips, [b for b in pool if b.group != video.group], random)
        if not pieces:
            reason = f"no background of {video.split} can be read"
            work.unused[video.video.uri] = UnusedVideo(uri=video.video.uri, role="class", reason=reason)
            return []
    place = int(random.integers(0, len(pieces) + 1))
    return [*pieces[:place], Piece(source=video.video.uri, role="class", frames=frames), *pieces[place:]]


def _draw_background(
    work: Composing, index: int, clips: int, pool: Sequence[Background], random: np.random.Generator
) -> list[Piece]:
    """Return pieces of ``clips`` together, each source once before any comes again; none if no source can be read."""
    pieces: list[Piece] = []
    attempt = 0
    while clips:
        pieces_before = len(pieces)
        for place in random.permutation(len(pool)).tolist():
            attempt += 1
            source = pool[place].video
            frames = _read_passage(work, source, "background", draw_piece_clips(clips, random), (index, attempt))
            if frames:
                pieces.append(Piece(source=source.uri, role="background", frames=frames))
                clips -= len(frames) // work.settings.frames_per_clip
            if not clips:
                return pieces
        if len(pieces) == pieces_before:
            return []
    return pieces


def _read_passage(
    work: Composing, video: VideoRef, role: SegmentRole, clips: int, place: tuple[int, int]
) -> list[Frame]:
    """Return a random passage of at most ``clips`` clips, at least one; nothing if the video cannot be read."""
    settings = work.settings
    if video.uri in work.unused:
        return []
    try:
        with open_video(video) as file, closing(_read_frames(file, video.uri, settings)) as frames:
            return draw_passage(
                frames,
                clips=clips,
                frames_per_clip=settings.frames_per_clip,
                frames_per_second=settings.frames_per_second,
                random=np.random.default_rng((settings.seed, 3, *place)),
            )
    except VideoError as error:
        work.unused[video.uri] = UnusedVideo(uri=video.uri, role=role, reason=error.reason)
        return []


def _read_frames(file: VideoFile, uri: str, settings: ComposeSettings) -> Generator[Frame]:
    return read_frames(
        file,
        uri,
        height=settings.height,
        width=settings.width,
        frames_per_second=settings.frames_per_second,
        limits=settings.decode,
    )
