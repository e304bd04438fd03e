"""What a process and the decoder it started say to each other.

One video at a time: ``OpenVideo``, then any number of ``ReadClips`` and ``CountClips`` one after another, then
``CloseVideo``. Every request is answered; what the decoder says, but for ``Accepted``, comes with the summary so far,
so that the last one known is there when the decoder is not. Pixels do not travel this way, see ``decoder_memory``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from typing import BinaryIO

from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_survey import DecodeSummary
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import ClipSpan

VideoOpener = Callable[[], BinaryIO | RawIOBase]
"""Opens the video's file, in the decoder's process: must be picklable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVideo:
    """The next video. Answered by ``Accepted`` at once, then by ``Opened`` or ``Failed``; then as its first pass is."""

    opener: VideoOpener
    uri: str
    sampling: ClipSampling
    limits: DecodeLimits
    first_pass: ReadClips | None = None
    """Begun as soon as the video is open, as though it had been asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadClips:
    """One pass. Answered by any number of ``BatchReady``, then by ``PassEnded`` or ``Failed``."""

    geometries: tuple[ClipGeometry, ...]
    """Each clip comes in all of them."""
    wanted: frozenset[int] | None
    clips_per_batch: int
    slots: tuple[int, ...]
    """Where batches may be written: offsets into the shared memory, in bytes."""


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """A batch may be written here, too: an offset into the shared memory, in bytes. Not answered."""

    offset: int


@dataclass(frozen=True, slots=True)
class StopReading:
    """Nobody wants the rest of the pass. Not answered by itself: the pass ends soon."""


@dataclass(frozen=True, slots=True)
class CountClips:
    """Answered by ``ClipsCounted`` or ``Failed``."""


@dataclass(frozen=True, slots=True)
class CloseVideo:
    """Answered by ``Closed``."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The video has arrived: from here on, what happens to the decoder is laid at its door."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The file is open."""

    cpu_seconds: float
    """What the decoder's process has used so far, for earlier videos and for starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReady:
    """Clips whose pixels [N, T, 3, H, W] stand from ``offset`` of the shared memory on, one geometry after another."""

    offset: int
    shapes: tuple[tuple[int, ...], ...]
    clip_indices: tuple[int, ...]
    spans: tuple[ClipSpan, ...]


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The decoder waits for the next request."""


@dataclass(frozen=True, slots=True)
class ClipsCounted:
    """How many clips the video has."""

    clips: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended in an error. The video is still open, unless it could not be opened."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Closed:
    """The decoder is ready for the next video."""

    private_bytes: int
    """Memory that it has kept."""


Request = ReadClips | FreeSlot | StopReading | CountClips | CloseVideo
Reply = Opened | BatchReady | PassEnded | ClipsCounted | Failed | Closed


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and what is known of the video by then; None where it could not be opened."""

    reply: Reply
    summary: DecodeSummary | None
