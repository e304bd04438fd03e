"""How composites are made: what ``cdlabel compose`` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cdmodel.composites import class_clips_range
from cdmodel.decode_limits import DecodeLimits
from cdmodel.setting_groups import FORBID_UNKNOWN
from storage.corpus import CorpusRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeSettings:
    """How composites are made."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    seed: int = 0
    """The same seed and videos give the same bytes."""
    distractors: float = 0.5
    """Share of each composite that shows nothing of its class, 0 to below 1. Where whole clips cannot give it, it holds
    on average."""
    clip_seconds: float = 1.0
    """All pieces are whole multiples of this. A video that is shorter is held at its last frame. Must be a whole number
    of frames."""
    shortest_seconds: float = 8.0
    """A composite is at least this long, unless its class video is too short for that: the share comes first."""
    longest_seconds: float = 16.0
    """A composite is at most this long: a longer class video gives a passage of it."""
    height: int = 120
    """Of the composites, in pixels, even. Pictures of other proportions are cut, not padded."""
    width: int = 160
    """Of the composites, in pixels, even."""
    frames_per_second: int = 16
    """Of the composites."""
    corpus: CorpusRules = CorpusRules()  # noqa: RUF009 - frozen
    """``corpus.roots``: where manifests may name videos, besides their own folder."""
    decode: DecodeLimits = DecodeLimits()  # noqa: RUF009 - frozen
    """What reading one video may cost before it is skipped; its settings are those of ``[decode]``, of which those on isolation
    do nothing here."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.distractors < 1:
            raise ValueError(f"distractors must be at least 0 and below 1, got {self.distractors}")
        if min(self.height, self.width) < 16 or self.height % 2 or self.width % 2:
            raise ValueError(f"height and width must be even and at least 16, got {self.height} and {self.width}")
        if not 1 <= self.frames_per_second <= 120:
            raise ValueError(f"frames_per_second must lie between 1 and 120, got {self.frames_per_second}")
        frames = self.clip_seconds * self.frames_per_second
        if not 0 < self.clip_seconds <= 3600 or abs(frames - round(frames)) > 1e-6 or round(frames) < 1:
            raise ValueError(f"clip_seconds must be a whole number of frames, got {self.clip_seconds}")
        if not 0 <= self.shortest_seconds <= self.longest_seconds <= 3600:
            raise ValueError(
                f"shortest_seconds and longest_seconds must ascend from 0 to 3600, got {self.shortest_seconds} and "
                f"{self.longest_seconds}"
            )
        if self.class_clips[1] < 1:
            raise ValueError(
                f"longest_seconds = {self.longest_seconds} has no room for one clip of the class with "
                f"distractors = {self.distractors}; it must be at least {self.clip_seconds / (1 - self.distractors):g}"
            )

    @property
    def frames_per_clip(self) -> int:
        """Frames in one clip of a composite."""
        return round(self.clip_seconds * self.frames_per_second)

    @property
    def class_clips(self) -> tuple[int, int]:
        """Fewest and most clips of a composite that show its class."""
        return class_clips_range(
            self.shortest_seconds / self.clip_seconds, self.longest_seconds / self.clip_seconds, self.distractors
        )
