"""The built-in student: a small 2D network over a stack of grey frames, with three heads.

It says the class, how likely the *teacher* would be right, and how likely the student itself is right. Time is only in
the stacking order, which makes it cheap.
N clips, T frames, C channels, D features, H height, W width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdmodel.models import StudentOutput

TOP_PROBABILITIES = 5
_LUMA = (0.299, 0.587, 0.114)


def build_student(
    *, num_classes: int, frames: int, height: int, width: int, channels: int = 16, hidden: int = 32
) -> nn.Module:
    """Return a network that maps normalised RGB clips [N, T, 3, H, W] to ``StudentOutput``.

    ``channels`` is the width of the first stage, ``hidden`` that of the two confidence heads. ``height`` and ``width``
    must be at least 16, so that something is left after the strides.
    """
    if height < 16 or width < 16:
        raise ValueError(f"the student needs frames of at least 16 x 16, got {height} x {width}")
    return Student(num_classes=num_classes, frames=frames, channels=channels, hidden=hidden)


class Student(nn.Module):
    """Backbone, class head, and one confidence head for each model of the cascade."""

    def __init__(self, *, num_classes: int, frames: int, channels: int, hidden: int) -> None:
        super().__init__()
        features = 4 * channels
        self.backbone = nn.Sequential(
            _convolve(2 * frames, channels, kernel=5, stride=2),
            _convolve(channels, 2 * channels, kernel=3, stride=2),
            _convolve(2 * channels, 2 * channels, kernel=3, stride=1),
            _convolve(2 * channels, features, kernel=3, stride=2),
            _convolve(features, features, kernel=3, stride=1),
        )
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(2 * features, num_classes)
        summary = 2 * features + min(TOP_PROBABILITIES, num_classes) + 2
        self.judge_teacher = _ConfidenceHead(summary, hidden)
        self.judge_student = _ConfidenceHead(summary, hidden)

    def forward(self, clips_NTCHW: Tensor) -> StudentOutput:
        """Return class logits and both confidence logits, uncalibrated.

        The teacher's head may shape the features, but neither head may change the class logits, and the student's head
        changes nothing but itself: what it judges must not move to please it.
        """
        features_ND = self._see(clips_NTCHW)
        logits_NK = self.classify(self.dropout(features_ND))
        doubts_N7 = describe_logits(logits_NK.detach())
        return StudentOutput(
            logits_NK=logits_NK,
            q_teacher_logit_N=self.judge_teacher(torch.cat([features_ND, doubts_N7], dim=1)),
            q_student_logit_N=self.judge_student(torch.cat([features_ND.detach(), doubts_N7], dim=1)),
        )

    def _see(self, clips_NTCHW: Tensor) -> Tensor:
        luma_C11 = clips_NTCHW.new_tensor(_LUMA).view(3, 1, 1)
        grey_NTHW = (clips_NTCHW * luma_C11).sum(dim=2)
        motion_NTHW = grey_NTHW - grey_NTHW.mean(dim=1, keepdim=True)
        x_NCHW = self.backbone(torch.cat([grey_NTHW, motion_NTHW], dim=1))
        return torch.cat([x_NCHW.mean(dim=(2, 3)), x_NCHW.amax(dim=(2, 3))], dim=1)


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


def _convolve(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
