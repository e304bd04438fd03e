"""Videos that lost bytes, and what a reader may make of them: the good clips and a word on the damage, or a VideoError."""

from __future__ import annotations

import io
from random import Random

from odd_videos import odd_video
from reference_reader import Clips, assert_same_clips, decode_reference, read_clips

from cdmodel.decode import ClipReader
from cdmodel.decode_survey import DecodeSummary
from cdmodel.errors import VideoError
from cdmodel.sampling import ClipGeometry, ClipSampling

GEOMETRY = ClipGeometry(frames=4, height=24, width=36)
ALL_PICTURES = ClipGeometry(frames=32, height=24, width=36)
"""More moments than half a second has pictures."""
UNSURE_NAMES = ("ffv1.mkv", "motion-jpeg.avi", "mpeg2.ps")
"""Their decoders leave parts of a damaged picture as they found the memory, and do not say so."""
SAMPLING = ClipSampling(clip_seconds=0.5, stride_seconds=0.5)


def truncate(content: bytes, share: float) -> bytes:
    """Return the first part of a video."""
    return content[: int(share * len(content))]


def erase(content: bytes, start_share: float, length_share: float) -> bytes:
    """Return a video of which a part is zeros."""
    start, length = int(start_share * len(content)), int(length_share * len(content))
    return content[:start] + bytes(length) + content[start + length :]


def flip(name: str, seed: int) -> bytes:
    """Return an odd video some of whose bytes are others, few or many, anywhere or past its header."""
    draw = Random(f"{name} {seed}")
    content = bytearray(odd_video(name))
    first = draw.choice((0, len(content) // 3))
    for _ in range(draw.choice((1, 3, 10, 60))):
        content[draw.randrange(first, len(content))] ^= draw.randrange(1, 256)
    return bytes(content)


def judge(content: bytes, subject: str) -> DecodeSummary | VideoError:
    """Return what came of reading a video twice, the second time a part of it.

    Raises:
        AssertionError: a clip is not that of a plain decode that leaves out whatever is corrupt; damage that such a
            decode saw is not told; a video without a good frame has clips, or one with such a frame has none.
    """
    reference = decode_reference(io.BytesIO(content), GEOMETRY.height, GEOMETRY.width)
    reader = ClipReader(io.BytesIO(content), subject, SAMPLING)
    found: Clips = {}
    refusal = None
    try:
        found = read_clips(reader, GEOMETRY)
    except VideoError as error:
        refusal = error
    if refusal is not None:
        assert reference is None, f"{subject}: {refusal}"
        return refusal
    summary = reader.summary()
    assert reference is not None, f"{subject}: clips of nothing"
    if subject.startswith(UNSURE_NAMES):
        return summary
    expected = reference.clips(GEOMETRY.frames, SAMPLING)
    if reference.is_damaged:
        assert _tells_damage(content, summary), subject
    if reference.is_damaged or reference.missing_seconds:
        # Whoever decodes less may see less of the damage: only where nothing is missing must all see the same.
        expected = {index: clip for index, clip in expected.items() if reference.is_sure(index, SAMPLING)}
        found = {index: clip for index, clip in found.items() if index in expected}
    assert_same_clips(found, expected, subject)
    if expected:
        wanted = set(Random(subject).sample(sorted(expected), min(2, len(expected))))
        part = {index: expected[index] for index in wanted}
        assert_same_clips(
            read_clips(reader, GEOMETRY, wanted), dict(sorted(part.items())), f"{subject}, wanted {wanted}"
        )
    return summary


def _tells_damage(content: bytes, summary: DecodeSummary) -> bool:
    """Tell whether damage that is there was told; where pictures were left out that nobody wanted, by who wants them all."""
    if summary.damage is None and summary.frames_decoded < summary.packets_read:
        reader = ClipReader(io.BytesIO(content), "all pictures", SAMPLING)
        try:
            read_clips(reader, ALL_PICTURES)
        except VideoError:
            return True
        summary = reader.summary()
    return summary.damage is not None and summary.coverage < 1
