"""Kinetic scenes: generated videos whose class is a motion, never an appearance.

A textured sprite performs one of twelve motions over a cluttered, panning background, between other sprites, behind
bars, in noise. A video is untrimmed: part of its seconds show nothing of its class. Videos of one group share
background and sprite but not the class, so that looks tell nothing. Everything follows from (seed, index); NumPy only.

H height, W width, C channels (RGB); positions in pixels from the picture's top left, angles in radians, clockwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdmodel.errors import ConfigError

FRAMES_PER_SECOND = 16
HEIGHT = 96
WIDTH = 128
SHORTEST_SECONDS = 8
LONGEST_SECONDS = 12
VIDEOS_PER_GROUP = 4

Frame = NDArray[np.uint8]
Backdrop = Literal["clutter", "stripes"]
"""What is behind: coarse clouds and patches, or slanted bands of two colours."""
Activity = Literal["action", "absent", "static", "weak"]
"""What the sprite does for one second: the class's motion, not show, stand still, or a hint of another motion."""

_TEXTURE = 64
"""Side of a sprite's texture, in texels: finer than any sprite is drawn."""
_PAN_REACH = 48
"""How far the camera can pan over the background, in pixels each way."""
_NOISE_TILE = 64
_WEAK_SHARE = 0.3
"""A weak motion reaches this share of its full extent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSpec:
    """A family of scenes: scene ``index`` of it is always the same."""

    seed: int
    distractors: float = 0.5
    """Share of each video's seconds that show nothing of its class, 0 to below 1; one second always shows it."""
    absent_labels: tuple[str, ...] = ()
    """Classes that no video shows: scenes of them become scenes of another one."""
    vigour: float = 1.0
    """How far motions reach in their second, and so how fast they are, against the usual."""
    backdrop: Backdrop = "clutter"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed", f"must not be negative, got {self.seed}")
        if not 0 <= self.distractors < 1:
            raise ConfigError("distractors", f"must be at least 0 and below 1, got {self.distractors}")
        if not 0 < self.vigour < 4:
            raise ConfigError("vigour", f"must be above 0 and below 4, got {self.vigour}")
        if not set(LABELS) - set(self.absent_labels):
            raise ConfigError("absent_labels", "some class must be left to show")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One video before it is drawn."""

    index: int
    label: str
    group: str
    group_seed: tuple[int, ...]
    """Seeds background and textures, shared by the group."""
    video_seed: tuple[int, ...]
    """Seeds everything else."""
    activities: tuple[Activity, ...]
    """One for each second."""
    vigour: float = 1.0
    backdrop: Backdrop = "clutter"

    @property
    def frames(self) -> int:
        """How many frames the video has."""
        return len(self.activities) * FRAMES_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pose:
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a sprite begins its second, and how fast it goes about it."""

    x: float
    y: float
    radius: float
    angle: float
    vigour: float
    """About 1; scales the extent of the motion."""
    drift_x: float
    """Pixels each second, on top of the motion."""
    drift_y: float


def draw_scene(spec: SceneSpec, index: int) -> Scene:
    """Decide everything about scene ``index`` but its pixels. Every run of twelve scenes holds each class once."""
    classes = np.random.default_rng((spec.seed, 1, index // len(LABELS))).permutation(len(LABELS))
    group = index // VIDEOS_PER_GROUP
    random = np.random.default_rng((spec.seed, 2, index))
    seconds = int(random.integers(SHORTEST_SECONDS, LONGEST_SECONDS + 1))
    label = LABELS[classes[index % len(LABELS)]]
    if label in spec.absent_labels:
        shown = [name for name in LABELS if name not in spec.absent_labels]
        label = shown[index // len(LABELS) % len(shown)]
    return Scene(
        index=index,
        label=label,
        group=f"g{group:05d}",
        group_seed=(spec.seed, 3, group),
        video_seed=(spec.seed, 4, index),
        activities=_draw_activities(random, seconds, spec.distractors),
        vigour=spec.vigour,
        backdrop=spec.backdrop,
    )


def render(scene: Scene) -> Iterator[Frame]:
    """Yield the frames of the scene in order, RGB uint8 [H, W, C]."""
    look = np.random.default_rng(scene.group_seed)
    random = np.random.default_rng(scene.video_seed)
    background = _draw_background(look) if scene.backdrop == "clutter" else _draw_stripes(look)
    hero = _draw_texture(look)
    others = [_draw_texture(look) for _ in range(int(random.integers(0, 3)))]
    contrast = random.uniform(0.5, 1.0)
    noise = _draw_noise(random)
    bars = _draw_bars(random)
    radius = random.uniform(8, 17)
    pan = _draw_pan(random, scene.frames)
    paths = [_wandering_path(random, scene.frames) for _ in others]
    for number, pose in enumerate(_hero_path(random, scene, radius)):
        pan_y, pan_x = pan[number]
        canvas = background[pan_y : pan_y + HEIGHT, pan_x : pan_x + WIDTH].astype(np.float32)
        for texture, path in zip(others, paths, strict=True):
            _paste(canvas, texture, path[number], contrast)
        if pose is not None:
            _paste(canvas, hero, pose, contrast)
        for rows, columns, colour in bars:
            canvas[rows, columns] = colour
        top, left = random.integers(0, _NOISE_TILE, size=2)
        canvas += noise[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(canvas, 0, 255).astype(np.uint8)


def _move(dx: float, dy: float) -> Callable[[_Start, float], _Pose]:
    def pose(start: _Start, t: float) -> _Pose:
        reach = 38 * start.vigour * (t - 0.5)
        return _Pose(x=start.x + dx * reach, y=start.y + dy * reach, radius=start.radius, angle=start.angle)

    return pose


def _rotate(sense: int) -> Callable[[_Start, float], _Pose]:
    def pose(start: _Start, t: float) -> _Pose:
        return _Pose(x=start.x, y=start.y, radius=start.radius, angle=start.angle + sense * 3.0 * start.vigour * t)

    return pose


def _scale(sense: int) -> Callable[[_Start, float], _Pose]:
    def pose(start: _Start, t: float) -> _Pose:
        radius = start.radius * float(np.exp(sense * 0.9 * start.vigour * (t - 0.5)))
        return _Pose(x=start.x, y=start.y, radius=radius, angle=start.angle)

    return pose


def _circle(sense: int) -> Callable[[_Start, float], _Pose]:
    def pose(start: _Start, t: float) -> _Pose:
        turn = start.angle + sense * 2 * np.pi * t
        reach = 14 * start.vigour
        return _Pose(
            x=start.x + reach * float(np.cos(turn)),
            y=start.y + reach * float(np.sin(turn)),
            radius=start.radius,
            angle=start.angle,
        )

    return pose


def _shake(start: _Start, t: float) -> _Pose:
    swing = 6 * start.vigour * float(np.sin(2 * np.pi * 4 * t))
    return _Pose(x=start.x + swing, y=start.y, radius=start.radius, angle=start.angle)


def _bounce(start: _Start, t: float) -> _Pose:
    hop = 24 * start.vigour * (abs(float(np.sin(2 * np.pi * t))) - 0.5)
    return _Pose(x=start.x, y=start.y - hop, radius=start.radius, angle=start.angle)


_MOTIONS: dict[str, Callable[[_Start, float], _Pose]] = {
    "bounce": _bounce,
    "circle_ccw": _circle(-1),
    "circle_cw": _circle(1),
    "grow": _scale(1),
    "move_down": _move(0, 1),
    "move_left": _move(-1, 0),
    "move_right": _move(1, 0),
    "move_up": _move(0, -1),
    "rotate_ccw": _rotate(-1),
    "rotate_cw": _rotate(1),
    "shake": _shake,
    "shrink": _scale(-1),
}
LABELS: tuple[str, ...] = tuple(_MOTIONS)
"""The classes, in alphabetical order."""


def _draw_activities(random: np.random.Generator, seconds: int, distractors: float) -> tuple[Activity, ...]:
    idle = min(round(distractors * seconds), seconds - 1)
    kinds: list[Activity] = ["action"] * (seconds - idle)
    kinds += [("absent", "static", "weak")[choice] for choice in random.choice(3, size=idle, p=(0.4, 0.3, 0.3))]
    return tuple(kinds[place] for place in random.permutation(seconds))


def _hero_path(random: np.random.Generator, scene: Scene, radius: float) -> Iterator[_Pose | None]:
    """Yield where the sprite is in each frame; None while it is away."""
    for activity in scene.activities:
        start = _draw_start(random, radius, scene.vigour)
        label = scene.label
        if activity == "weak":
            label = LABELS[(LABELS.index(label) + int(random.integers(1, len(LABELS)))) % len(LABELS)]
        extent = {"action": 1.0, "weak": _WEAK_SHARE, "static": 0.0, "absent": 0.0}[activity]
        for step in range(FRAMES_PER_SECOND):
            t = (step + 0.5) / FRAMES_PER_SECOND
            yield None if activity == "absent" else _pose_at(_MOTIONS[label], start, t, extent)


def _pose_at(motion: Callable[[_Start, float], _Pose], start: _Start, t: float, extent: float) -> _Pose:
    full = motion(start, t)
    return _Pose(
        x=start.x + extent * (full.x - start.x) + start.drift_x * (t - 0.5),
        y=start.y + extent * (full.y - start.y) + start.drift_y * (t - 0.5),
        radius=start.radius + extent * (full.radius - start.radius),
        angle=start.angle + extent * (full.angle - start.angle),
    )


def _draw_start(random: np.random.Generator, radius: float, vigour: float) -> _Start:
    return _Start(
        x=random.uniform(30, WIDTH - 30),
        y=random.uniform(28, HEIGHT - 28),
        radius=radius,
        angle=random.uniform(0, 2 * np.pi),
        vigour=vigour * random.uniform(0.75, 1.25),
        drift_x=random.uniform(-5, 5),
        drift_y=random.uniform(-5, 5),
    )


def _wandering_path(random: np.random.Generator, frames: int) -> list[_Pose]:
    """Return where a bystander is in each frame: it swims slowly back and forth."""
    turns = np.arange(frames) / FRAMES_PER_SECOND * random.uniform(0.2, 0.5) + random.uniform(0, 2 * np.pi)
    reach_x, reach_y = random.uniform(4, 14, size=2)
    x, y = random.uniform(10, WIDTH - 10), random.uniform(10, HEIGHT - 10)
    radius, angle = random.uniform(7, 14), random.uniform(0, 2 * np.pi)
    return [
        _Pose(x=x + reach_x * float(np.cos(turn)), y=y + reach_y * float(np.sin(turn)), radius=radius, angle=angle)
        for turn in turns
    ]


def _draw_pan(random: np.random.Generator, frames: int) -> NDArray[np.int64]:
    """Return the camera's corner (row, column) on the background for each frame."""
    phases = np.arange(frames) / FRAMES_PER_SECOND * random.uniform(0.1, 0.4) + random.uniform(0, 2 * np.pi)
    reach = random.uniform(4, _PAN_REACH / 2)
    tilt = random.uniform(0, np.pi)
    steps = np.stack([np.sin(phases) * np.sin(tilt), np.sin(phases) * np.cos(tilt)], axis=1)
    return np.rint(_PAN_REACH / 2 + reach * steps).astype(np.int64)


def _draw_background(random: np.random.Generator) -> NDArray[np.uint8]:
    """Return clutter: coarse clouds and a few dozen patches of colour, with room to pan."""
    height, width = HEIGHT + _PAN_REACH, WIDTH + _PAN_REACH
    clouds = _enlarge(random.uniform(50, 200, size=(height // 24, width // 24, 3)), height, width)
    clouds += _enlarge(random.uniform(-18, 18, size=(height // 6, width // 6, 3)), height, width)
    for _ in range(24):
        top, left = int(random.integers(0, height)), int(random.integers(0, width))
        rows, columns = random.integers(4, 22, size=2)
        patch = clouds[top : top + rows, left : left + columns]
        patch += 0.6 * (random.uniform(30, 220, size=3) - patch)
    return np.clip(clouds, 0, 255).astype(np.uint8)


def _draw_stripes(random: np.random.Generator) -> NDArray[np.uint8]:
    """Return slanted bands of two colours with soft edges, with room to pan."""
    colours = random.uniform(20, 235, size=(2, 3))
    slant, width = random.uniform(0, np.pi), random.uniform(6, 14)
    rows, columns = np.mgrid[: HEIGHT + _PAN_REACH, : WIDTH + _PAN_REACH]
    across = (rows * np.sin(slant) + columns * np.cos(slant)) / width
    share = np.clip(0.5 + 2 * np.sin(np.pi * across), 0, 1)[..., None]
    return np.asarray(np.clip(colours[0] + share * (colours[1] - colours[0]), 0, 255), dtype=np.uint8)


def _draw_texture(random: np.random.Generator) -> NDArray[np.float32]:
    """Return a sprite [texel, texel, RGB and opacity]: an ellipse whose halves differ, so that its turning shows."""
    colours = random.uniform(0, 255, size=(2, 3))
    while np.abs(colours[0] - colours[1]).sum() < 200:
        colours = random.uniform(0, 255, size=(2, 3))
    axis = (np.arange(_TEXTURE) + 0.5) / _TEXTURE * 2 - 1
    x, y = np.meshgrid(axis, axis)
    side = (x > random.uniform(-0.25, 0.25))[..., None]
    grain = _enlarge(random.uniform(-35, 35, size=(8, 8, 3)), _TEXTURE, _TEXTURE)
    pixels = np.clip(np.where(side, colours[0], colours[1]) + grain, 0, 255)
    opacity = np.clip((1 - np.hypot(x, y / random.uniform(0.6, 1.0))) * 8, 0, 1)
    return np.concatenate([pixels, opacity[..., None]], axis=2).astype(np.float32)


def _draw_noise(random: np.random.Generator) -> NDArray[np.float32]:
    deviation = random.uniform(3, 10)
    size = (HEIGHT + _NOISE_TILE, WIDTH + _NOISE_TILE, 3)
    return np.asarray(random.standard_normal(size, dtype=np.float32) * np.float32(deviation))


def _draw_bars(random: np.random.Generator) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Return bars that hide what is behind them, upright or level: in half of the videos none."""
    bars = []
    for _ in range(int(random.choice(3, p=(0.5, 0.3, 0.2)))):
        width = int(random.integers(8, 20))
        colour = random.uniform(20, 230, size=3).astype(np.float32)
        if random.random() < 0.6:
            left = int(random.integers(10, WIDTH - 30))
            bars.append((slice(0, HEIGHT), slice(left, left + width), colour))
        else:
            top = int(random.integers(10, HEIGHT - 30))
            bars.append((slice(top, top + width), slice(0, WIDTH), colour))
    return bars


def _enlarge(coarse: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Interpolate a coarse picture linearly to another size, corner to corner."""
    for axis, size in enumerate((height, width)):
        places = np.linspace(0, coarse.shape[axis] - 1, size)
        below = np.minimum(places.astype(np.int64), coarse.shape[axis] - 2)
        share = np.expand_dims(places - below, tuple(other for other in range(3) if other != axis))
        coarse = coarse.take(below, axis) * (1 - share) + coarse.take(below + 1, axis) * share
    return coarse


def _paste(canvas: NDArray[np.float32], texture: NDArray[np.float32], pose: _Pose, contrast: float) -> None:
    """Blend the sprite into the canvas, in place, sampling the texture at each pixel it covers."""
    reach = pose.radius + 1
    top, left = max(int(pose.y - reach), 0), max(int(pose.x - reach), 0)
    bottom, right = min(int(pose.y + reach) + 2, HEIGHT), min(int(pose.x + reach) + 2, WIDTH)
    if top >= bottom or left >= right:
        return
    rows = (np.arange(top, bottom, dtype=np.float32) - np.float32(pose.y))[:, None]
    columns = (np.arange(left, right, dtype=np.float32) - np.float32(pose.x))[None, :]
    zoom = _TEXTURE / (2 * pose.radius)
    cosine, sine = np.float32(np.cos(pose.angle) * zoom), np.float32(np.sin(pose.angle) * zoom)
    u = np.clip(columns * cosine + rows * sine + _TEXTURE / 2, 0, _TEXTURE - 1).astype(np.int32)
    v = np.clip(rows * cosine - columns * sine + _TEXTURE / 2, 0, _TEXTURE - 1).astype(np.int32)
    texels = texture[v, u]
    target = canvas[top:bottom, left:right]
    target += contrast * texels[..., 3:] * (texels[..., :3] - target)
