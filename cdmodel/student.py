"""The built-in students: three backbones, on each the same three heads.

A student says the class, how likely the *teacher* would be right, and how likely the student itself is right. They differ
in what they see: a 2D network over a stack of frames (time is only in the stacking order, which makes it cheap), a
compact (2+1)D network, and a 2D network on one keyframe, which sees looks alone.
N clips, T frames, C channels, D features, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdmodel.models import StudentOutput
from cdmodel.teacher import WIDENING, build_blocks, build_stem, show_motion

TOP_PROBABILITIES = 5
_LUMA = (0.299, 0.587, 0.114)


def build_student(
    *,
    num_classes: int,
    frames: int,
    height: int,
    width: int,
    channels: int = 16,
    hidden: int = 32,
    colour: bool = False,
    detach_teacher_head: bool = False,
) -> nn.Module:
    """Return a 2D network that maps normalised RGB clips [N, T, 3, H, W] to ``StudentOutput``.

    ``channels`` is the width of the first stage, ``hidden`` that of the two confidence heads. ``height`` and ``width``
    must be at least 16, so that something is left after the strides. With ``colour`` it sees the frames in colour, for
    footage where looks tell; motion is grey either way. With ``detach_teacher_head`` the teacher's head does not shape the
    features (an ablation).
    """
    _check_size(height, width, least=16)
    return Student(
        backbone=_build_layers((4 if colour else 2) * frames, channels),
        show=_stack_colour if colour else _stack_grey,
        features=4 * channels,
        num_classes=num_classes,
        hidden=hidden,
        detach_teacher_head=detach_teacher_head,
    )


def build_compact_student(
    *,
    num_classes: int,
    frames: int,
    height: int,
    width: int,
    channels: int = 16,
    hidden: int = 32,
    detach_teacher_head: bool = False,
) -> nn.Module:
    """Return a narrow (2+1)D network, of the teacher's design, that maps clips [N, T, 3, H, W] to ``StudentOutput``.

    Sees colour and the order of the frames. Needs at least 4 frames of 32 x 32; the other arguments as ``build_student``.
    """
    _check_size(height, width, least=32)
    if frames < 4:
        raise ValueError(f"the compact student needs at least 4 frames, got {frames}")
    network = Student(
        backbone=nn.Sequential(build_stem(channels), build_blocks(channels)),
        show=show_motion,
        features=WIDENING * channels,
        num_classes=num_classes,
        hidden=hidden,
        detach_teacher_head=detach_teacher_head,
    )
    # Channels last, as the teacher: on CPUs the faster layout.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def build_keyframe_student(
    *,
    num_classes: int,
    frames: int,
    height: int,
    width: int,
    channels: int = 12,
    hidden: int = 32,
    detach_teacher_head: bool = False,
) -> nn.Module:
    """Return a 2D network that maps one RGB frame a clip [N, 1, 3, H, W] to ``StudentOutput``.

    Meant for a geometry of ``keyframes_only``. Needs at least 16 x 16 pixels; the other arguments as ``build_student``.
    """
    _check_size(height, width, least=16)
    if frames != 1:
        raise ValueError(f"the keyframe student sees one frame a clip, got {frames}")
    return Student(
        backbone=_build_layers(3, channels),
        show=_show_first,
        features=4 * channels,
        num_classes=num_classes,
        hidden=hidden,
        detach_teacher_head=detach_teacher_head,
    )


class Student(nn.Module):
    """Backbone, class head, and one confidence head for each model of the cascade."""

    def __init__(
        self,
        *,
        backbone: nn.Sequential,
        show: Callable[[Tensor], Tensor],
        features: int,
        num_classes: int,
        hidden: int,
        detach_teacher_head: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(2 * features, num_classes)
        summary = 2 * features + min(TOP_PROBABILITIES, num_classes) + 2
        self.judge_teacher = _ConfidenceHead(summary, hidden)
        self.judge_student = _ConfidenceHead(summary, hidden)
        self._show = show
        self._detach_teacher_head = detach_teacher_head

    def forward(self, clips_NTCHW: Tensor) -> StudentOutput:
        """Return class logits and both confidence logits, uncalibrated.

        The teacher's head may shape the features unless it is detached, but neither head may change the class logits, and
        the student's head changes nothing but itself: what it judges must not move to please it.
        """
        features_ND = self._see(clips_NTCHW)
        logits_NK = self.classify(self.dropout(features_ND))
        doubts_N7 = describe_logits(logits_NK.detach())
        judged_ND = features_ND.detach() if self._detach_teacher_head else features_ND
        return StudentOutput(
            logits_NK=logits_NK,
            q_teacher_logit_N=self.judge_teacher(torch.cat([judged_ND, doubts_N7], dim=1)),
            q_student_logit_N=self.judge_student(torch.cat([features_ND.detach(), doubts_N7], dim=1)),
        )

    def _see(self, clips_NTCHW: Tensor) -> Tensor:
        x = self.backbone(self._show(clips_NTCHW))
        everywhere = tuple(range(2, x.ndim))
        return torch.cat([x.mean(dim=everywhere), x.amax(dim=everywhere)], dim=1)


class _ConfidenceHead(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 1))

    def forward(self, summary_ND: Tensor) -> Tensor:
        logit_N: Tensor = self.layers(summary_ND).squeeze(1)
        return logit_N


def describe_logits(logits_NK: Tensor) -> Tensor:
    """Return what the logits say of their own certainty: the largest five log-probabilities, entropy and margin.

    Seven columns, or K + 2 where there are fewer than five classes. Source: Corbiere et al. 2019 learn confidence from
    features alone; the sorted scores are the usual inputs of post-hoc deferral.
    """
    log_probabilities_NK = logits_NK.log_softmax(dim=1)
    top_N5 = log_probabilities_NK.topk(min(TOP_PROBABILITIES, logits_NK.shape[1]), dim=1).values
    entropy_N1 = -(log_probabilities_NK.exp() * log_probabilities_NK).sum(dim=1, keepdim=True)
    margin_N1 = top_N5[:, :1].exp() - top_N5[:, 1:2].exp()
    return torch.cat([top_N5, entropy_N1, margin_N1], dim=1)


def _check_size(height: int, width: int, *, least: int) -> None:
    if height < least or width < least:
        raise ValueError(f"the student needs frames of at least {least} x {least}, got {height} x {width}")


def _stack_grey(clips_NTCHW: Tensor) -> Tensor:
    """Return [N, 2T, H, W]: the frames in grey, and their deviation from the clip's mean picture."""
    grey_NTHW = _to_grey(clips_NTCHW)
    return torch.cat([grey_NTHW, _motion_of(grey_NTHW)], dim=1)


def _stack_colour(clips_NTCHW: Tensor) -> Tensor:
    """Return [N, 4T, H, W]: the frames in colour, and the motion in grey."""
    return torch.cat([clips_NTCHW.flatten(1, 2), _motion_of(_to_grey(clips_NTCHW))], dim=1)


def _show_first(clips_NTCHW: Tensor) -> Tensor:
    return clips_NTCHW[:, 0]


def _to_grey(clips_NTCHW: Tensor) -> Tensor:
    return (clips_NTCHW * clips_NTCHW.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=2)


def _motion_of(grey_NTHW: Tensor) -> Tensor:
    return grey_NTHW - grey_NTHW.mean(dim=1, keepdim=True)


def _build_layers(channels_in: int, channels: int) -> nn.Sequential:
    """Return five 2D layers: ``channels_in`` to ``4 * channels``, an eighth of the size."""
    features = 4 * channels
    return nn.Sequential(
        _convolve(channels_in, channels, kernel=5, stride=2),
        _convolve(channels, 2 * channels, kernel=3, stride=2),
        _convolve(2 * channels, 2 * channels, kernel=3, stride=1),
        _convolve(2 * channels, features, kernel=3, stride=2),
        _convolve(features, features, kernel=3, stride=1),
    )


def _convolve(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
