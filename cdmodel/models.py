"""The two models of a cascade, ready to score: built from a bundle, on one device.

A scorer turns uint8 clips into raw NumPy answers and knows its FLOPs per clip. It knows nothing of policies; what the
answers mean is up to ``calibration``.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cdmodel.bundle import (
    BUILTIN_BUILDERS,
    STUDENT_WEIGHTS,
    BundleManifest,
    ModelSpec,
    check_builder,
    find_teacher,
    model_version,
    read_manifest,
)
from cdmodel.clips import Pixels
from cdmodel.device_meter import DeviceMeter, Metered
from cdmodel.errors import BundleError
from cdmodel.fast_inference import CLIPS_ON_CPU, OneDnnConvolutions, fold_batch_norms
from cdmodel.fitting_batches import BatchLimit, score_in_parts
from cdmodel.flop_count import count_flops
from cdmodel.sampling import ClipGeometry
from cdmodel.scores import FloatArray, StudentLogits
from cdmodel.shared_device import AskedModel, SharedDevice
from cdmodel.stage_clock import stage


class StudentOutput(NamedTuple):
    """What a student network returns: three heads on one backbone, all uncalibrated logits."""

    logits_NK: Tensor
    q_teacher_logit_N: Tensor
    q_student_logit_N: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentScorer:
    """The student network with its preprocessing and calibration."""

    network: nn.Module
    """Maps normalised float32 clips [N, T, C, H, W] to ``StudentOutput``."""
    spec: ModelSpec
    device: torch.device
    flops_per_clip: int
    limit: BatchLimit = field(default_factory=BatchLimit, compare=False)
    shared: SharedDevice | None = None
    """Where other videos ask too."""

    @property
    def geometry(self) -> ClipGeometry:
        """What this model sees of a clip."""
        return self.spec.geometry

    def taken_by(self, network: nn.Module) -> StudentScorer:
        """Return the same scorer with another network of the same shape, ready for inference."""
        return replace(self, network=network.to(self.device).eval())

    def ask(self, pixels_NTCHW: Pixels) -> Metered[StudentLogits]:
        """Return the raw answers per clip, in order, and what they took. Blocks until they are there.

        Raises: as ``score``.
        """
        if self.shared is None:
            return self._measure(pixels_NTCHW)
        model = AskedModel(name="student", score=self._measure, join=_join, rows=StudentLogits.rows)
        return self.shared.ask(model, pixels_NTCHW)

    def _measure(self, pixels_NTCHW: Pixels) -> Metered[StudentLogits]:
        with stage("student"), DeviceMeter(on_gpu=self.device.type == "cuda") as meter:
            answers = self.score(pixels_NTCHW)
        return meter.of(answers)

    def score(self, pixels_NTCHW: Pixels) -> StudentLogits:
        """Return the raw answers per clip, in order. Blocks until the device is done.

        Raises:
            RunError: the device has not the memory for one clip.
        """
        parts = score_in_parts(self._score, pixels_NTCHW, self.limit, "student")
        return parts[0] if len(parts) == 1 else StudentLogits.concatenate(parts)

    def _score(self, pixels_NTCHW: Pixels) -> StudentLogits:
        with torch.inference_mode():
            output = self.network(normalise(pixels_NTCHW, self.spec, self.device))
        return StudentLogits(
            logits_NK=_to_numpy(output.logits_NK),
            q_teacher_logit_N=_to_numpy(output.q_teacher_logit_N),
            q_student_logit_N=_to_numpy(output.q_student_logit_N),
            motion_N=measure_motion(pixels_NTCHW),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScorer:
    """The teacher network with its preprocessing and calibration."""

    network: nn.Module
    """Maps normalised float32 clips [N, T, C, H, W] to logits [N, K]."""
    spec: ModelSpec
    device: torch.device
    flops_per_clip: int
    limit: BatchLimit = field(default_factory=BatchLimit, compare=False)
    shared: SharedDevice | None = None
    """Where other videos ask too."""

    @property
    def geometry(self) -> ClipGeometry:
        """What this model sees of a clip."""
        return self.spec.geometry

    def ask(self, pixels_NTCHW: Pixels) -> Metered[FloatArray]:
        """Return the logits [N, K] per clip, in order, and what they took. Blocks until they are there.

        Raises: as ``score``.
        """
        if self.shared is None:
            return self._measure(pixels_NTCHW)
        model = AskedModel(name="teacher", score=self._measure, join=_join, rows=np.ndarray.__getitem__)
        return self.shared.ask(model, pixels_NTCHW)

    def _measure(self, pixels_NTCHW: Pixels) -> Metered[FloatArray]:
        with stage("teacher"), DeviceMeter(on_gpu=self.device.type == "cuda") as meter:
            answers = self.score(pixels_NTCHW)
        return meter.of(answers)

    def score(self, pixels_NTCHW: Pixels) -> FloatArray:
        """Return the logits [N, K] per clip, in order. Blocks until the device is done.

        Raises:
            RunError: the device has not the memory for one clip.
        """
        parts = score_in_parts(self._score, pixels_NTCHW, self.limit, "teacher")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _score(self, pixels_NTCHW: Pixels) -> FloatArray:
        with torch.inference_mode(), OneDnnConvolutions():
            return _to_numpy(self.network(normalise(pixels_NTCHW, self.spec, self.device)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeModels:
    """Both scorers of one bundle on one device."""

    model_version: str
    manifest: BundleManifest
    student: StudentScorer
    teacher: TeacherScorer
    device_name: str
    """``cpu``, or for example ``cuda:NVIDIA H200``."""

    def on(self, shared: SharedDevice) -> CascadeModels:
        """Return the same models, asked together with other videos."""
        return replace(self, student=replace(self.student, shared=shared), teacher=replace(self.teacher, shared=shared))


def load_bundle(
    folder: Path, device: torch.device | str = "cpu", allowed_builders: Sequence[str] = ()
) -> CascadeModels:
    """Build both networks of the bundle in ``folder`` and put them on ``device``, ready for inference.

    Raises:
        BundleError: the bundle is damaged, unknown, or asks for a builder outside the allow-list.
    """
    manifest = read_manifest(folder)
    device = torch.device(device)
    allowed = (*BUILTIN_BUILDERS, *allowed_builders)
    teacher = _load_network(find_teacher(folder), manifest.teacher, len(manifest.labels), allowed, device)
    return CascadeModels(
        model_version=model_version(manifest),
        manifest=manifest,
        student=_student_of(folder, manifest, device, allowed),
        teacher=TeacherScorer(
            network=fold_batch_norms(teacher),
            spec=manifest.teacher,
            device=device,
            flops_per_clip=count_flops(teacher, manifest.teacher.geometry, device),
            limit=BatchLimit(CLIPS_ON_CPU if device.type == "cpu" else None),
        ),
        device_name=name_device(device),
    )


def load_student(
    folder: Path, device: torch.device | str = "cpu", allowed_builders: Sequence[str] = ()
) -> StudentScorer:
    """Build the student alone of the bundle in ``folder``; else as ``load_bundle``."""
    manifest = read_manifest(folder)
    return _student_of(folder, manifest, torch.device(device), (*BUILTIN_BUILDERS, *allowed_builders))


def pick_device() -> str:
    """Return ``cuda`` where a GPU is usable, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def name_local_device() -> str:
    """Return where models would run in this process, as tables show it."""
    return name_device(torch.device(pick_device()))


def count_gpus() -> int:
    """Return how many GPUs this process can see."""
    return torch.cuda.device_count()


def limit_threads(threads: int) -> None:
    """Let the models use this many CPU threads in this process."""
    torch.set_num_threads(threads)


def build_network(
    spec: ModelSpec, num_classes: int, allowed_builders: Sequence[str], folder: Path | None = None
) -> nn.Module:
    """Call the builder that ``spec`` names; weights are as the builder initialises them.

    A teacher that is a folder has a builder with one argument more, ``folder``, which loads the weights there too.

    Raises:
        BundleError: the builder is not allowed, does not exist, or refuses its arguments.
    """
    check_builder(spec.builder, spec.builder, allowed_builders)
    module_name, _, function_name = spec.builder.partition(":")
    geometry = spec.geometry
    try:
        builder: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function_name)
        return builder(
            num_classes=num_classes,
            frames=geometry.frames,
            height=geometry.height,
            width=geometry.width,
            **spec.arguments,
            **({} if folder is None else {"folder": str(folder)}),
        )
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BundleError(spec.builder, f"the model cannot be built: {error}") from error


def normalise(pixels_NTCHW: Pixels, spec: ModelSpec, device: torch.device) -> Tensor:
    """Return (pixel / 255 - mean) / std as float32 on the device; the bytes cross to it, if they must, not the floats."""
    pixels = torch.as_tensor(pixels_NTCHW, device=device).float()
    mean_C11 = torch.tensor(spec.mean, device=device).view(3, 1, 1)
    std_C11 = torch.tensor(spec.std, device=device).view(3, 1, 1)
    return (pixels / 255.0 - mean_C11) / std_C11


def _join(parts: Sequence[Pixels]) -> Pixels:
    """Put clips behind one another: on the GPU, where one of its decoders has written some."""
    on_gpu = next((part.device for part in parts if isinstance(part, Tensor)), None)
    if on_gpu is None:
        return np.concatenate(parts)
    return torch.cat([torch.as_tensor(part, device=on_gpu) for part in parts])


def measure_motion(pixels_NTCHW: Pixels) -> FloatArray:
    """Return the mean absolute grey difference between neighbouring frames [N], 0 to 1; one frame has no motion."""
    if isinstance(pixels_NTCHW, Tensor):
        return _measure_motion_on_device(pixels_NTCHW)
    grey_NTHW = pixels_NTCHW.mean(axis=2, dtype=np.float32)
    if grey_NTHW.shape[1] < 2:
        return np.zeros(len(grey_NTHW), dtype=np.float32)
    return np.asarray(np.abs(np.diff(grey_NTHW, axis=1)).mean(axis=(1, 2, 3)) / 255, dtype=np.float32)


def _measure_motion_on_device(pixels_NTCHW: Tensor) -> FloatArray:
    grey_NTHW = pixels_NTCHW.float().mean(dim=2)
    if grey_NTHW.shape[1] < 2:
        return np.zeros(len(grey_NTHW), dtype=np.float32)
    return _to_numpy(grey_NTHW.diff(dim=1).abs().mean(dim=(1, 2, 3)) / 255)


def name_device(device: torch.device) -> str:
    """Return the device as tables show it: ``cpu``, or ``cuda:`` and the card's name."""
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _student_of(folder: Path, manifest: BundleManifest, device: torch.device, allowed: Sequence[str]) -> StudentScorer:
    network = _load_network(folder / STUDENT_WEIGHTS, manifest.student, len(manifest.labels), allowed, device)
    return StudentScorer(
        network=network,
        spec=manifest.student,
        device=device,
        flops_per_clip=count_flops(network, manifest.student.geometry, device),
    )


def _load_network(
    weights: Path, spec: ModelSpec, num_classes: int, allowed_builders: Sequence[str], device: torch.device
) -> nn.Module:
    if weights.is_dir():
        return build_network(spec, num_classes, allowed_builders, weights).to(device).eval()
    network = build_network(spec, num_classes, allowed_builders)
    try:
        # Some bundles store half precision to stay small; inference here is float32.
        state = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(weights).items()
        }
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise BundleError(str(weights), f"weights do not fit builder {spec.builder}: {first_line}") from error
    return network.to(device).eval()


def _to_numpy(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy())
