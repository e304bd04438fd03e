"""The students to choose from, by size: which network, and what it sees of a clip. Torch-free.

What each costs beside the built-in teacher is measured by ``benchmarks/bench_students.py``; see ``docs/students.md``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import JsonValue

from cdmodel.sampling import ClipGeometry

StudentSize = Literal["small", "medium", "large", "keyframe"]
STUDENT_SIZES: Final[tuple[StudentSize, ...]] = ("small", "medium", "large", "keyframe")


class StudentSpec(NamedTuple):
    """What a bundle's manifest says of its student, before anything is trained."""

    builder: str
    """``module:function``."""
    arguments: dict[str, JsonValue]
    """For the builder, beside num_classes, frames, height and width."""
    geometry: ClipGeometry


def student_spec(size: StudentSize) -> StudentSpec:
    """Return the student of this size.

    ``small``, ``medium`` and ``large`` cost about 1, 3 and 10 % of the FLOPs of the built-in teacher at 16 x 64 x 64;
    ``keyframe`` about 4.5 %, and saves decoding instead.
    """
    match size:
        case "small":
            return StudentSpec("cdmodel.student:build_student", {}, ClipGeometry(frames=8, height=24, width=24))
        case "medium":
            return StudentSpec("cdmodel.student:build_student", {}, ClipGeometry(frames=8, height=48, width=48))
        case "large":
            geometry = ClipGeometry(frames=8, height=64, width=64)
            return StudentSpec("cdmodel.student:build_student", {"channels": 24}, geometry)
        case "keyframe":
            geometry = ClipGeometry(frames=1, height=96, width=96, keyframes_only=True)
            return StudentSpec("cdmodel.student:build_keyframe_student", {}, geometry)
