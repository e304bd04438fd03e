"""What plain PyAV and torch do about the clips of videos: the code that every peer of ``bench_peers.py`` is given.

The clips and the networks are the bundle's own, so that only the ways of getting through them differ; decoding is the loop
of PyAV's documentation. N clips, T frames, C channels, H height, W width, K labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cdmodel.bundle import DEMO_BUNDLE, BundleManifest, read_manifest
from cdmodel.models import load_bundle, load_student, normalise
from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times, has_clip, nominal_span

CLIPS_PER_BATCH = 16
Which = Literal["student", "teacher"]
Pixels = NDArray[np.uint8]


@lru_cache(maxsize=1)
def bundle_manifest() -> BundleManifest:
    """Return what the bundle says of itself, read once in a process."""
    return read_manifest(DEMO_BUNDLE)


def clip_geometry(which: Which) -> ClipGeometry:
    """Return what the network sees of a clip."""
    manifest = bundle_manifest()
    return manifest.student.geometry if which == "student" else manifest.teacher.geometry


def read_clips(path: str, which: Which) -> Iterator[Pixels]:
    """Yield every clip [T, C, H, W] of the video, in order; decodes every frame and converts those that a clip shows.

    One decoding thread: on videos as small as these, frame threads cost more CPU time than they save wall time, and each
    peer has as many of these loops as there are cores.
    """
    geometry, sampling = clip_geometry(which), bundle_manifest().sampling
    pictures: list[Pixels] = []
    for picture in pictures_on_show(path, geometry, sampling):
        pictures.append(picture)
        if len(pictures) == geometry.frames:
            yield np.stack(pictures)
            pictures = []


def pictures_on_show(path: str, geometry: ClipGeometry, sampling: ClipSampling) -> Iterator[Pixels]:
    """Yield the picture [C, H, W] at each moment of each clip, one clip after another."""
    moments = clip_moments(geometry, sampling)
    clip_index, moment = next(moments)
    reformatter = VideoReformatter()
    shown, picture, end_seconds = None, None, 0.0

    def convert(frame: av.VideoFrame) -> Pixels:
        scaled = reformatter.reformat(frame, geometry.width, geometry.height, "rgb24", threads=1)
        return scaled.to_ndarray().transpose(2, 0, 1)

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        first_seconds = None
        for frame in container.decode(stream):
            if first_seconds is None:
                first_seconds = frame.time
            begins = frame.time - first_seconds
            end_seconds = begins + float(frame.duration * frame.time_base)
            while shown is not None and moment < begins:
                picture = convert(shown) if picture is None else picture
                yield picture
                clip_index, moment = next(moments)
            shown, picture = frame, None
        while shown is not None and has_clip(clip_index, end_seconds, sampling):
            picture = convert(shown) if picture is None else picture
            yield picture
            clip_index, moment = next(moments)


def clip_moments(geometry: ClipGeometry, sampling: ClipSampling) -> Iterator[tuple[int, float]]:
    """Yield the moments of all clips of an endless video, each with its clip's index."""
    if sampling.stride_seconds < sampling.clip_seconds:
        raise ValueError("clips that overlap need more than one pass of this loop")
    clip_index = 0
    while True:
        for moment in frame_times(nominal_span(clip_index, sampling), geometry.frames):
            yield clip_index, moment
        clip_index += 1


class ClipModel:
    """One network of the bundle, on one thread."""

    def __init__(self, which: Which) -> None:
        torch.set_num_threads(1)
        manifest = bundle_manifest()
        if which == "student":
            self._scorer = load_student(DEMO_BUNDLE)
            self._temperature = manifest.calibration.student_temperature
        else:
            self._scorer = load_bundle(DEMO_BUNDLE).teacher
            self._temperature = manifest.calibration.teacher_temperature

    def probabilities(self, pixels_NTCHW: Pixels) -> NDArray[np.float32]:
        """Return the calibrated probabilities [N, K]."""
        with torch.inference_mode():
            output = self._scorer.network(normalise(pixels_NTCHW, self._scorer.spec, torch.device("cpu")))
            logits_NK = output if isinstance(output, torch.Tensor) else output.logits_NK
            return (logits_NK / self._temperature).softmax(dim=1).numpy()


class Answers:
    """The mean of the clips' probabilities for each video: the usual answer of a model asked about all of them."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._clips: Counter[str] = Counter()

    @classmethod
    def of(cls, parts: Iterable[Answers]) -> Answers:
        """Return the answers of parts that have no video in common."""
        whole = cls()
        for part in parts:
            whole._sums |= part._sums
            whole._clips += part._clips
        return whole

    def add(self, paths: Iterable[str], probabilities_NK: Iterable[NDArray[np.float32]]) -> None:
        """Count some clips in, of any videos."""
        for path, probabilities_K in zip(paths, probabilities_NK, strict=True):
            clip_K = np.asarray(probabilities_K, dtype=np.float64)
            self._sums[path] = self._sums[path] + clip_K if path in self._sums else clip_K
            self._clips[path] += 1

    def to_json(self) -> str:
        """Return label and number of clips by path."""
        labels = bundle_manifest().labels
        found = {path: [labels[int(total_K.argmax())], self._clips[path]] for path, total_K in self._sums.items()}
        return json.dumps(found)
