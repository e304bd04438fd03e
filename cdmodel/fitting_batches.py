"""Scores a batch in parts that fit the device's memory: what did not fit is halved, and stays halved.

Other programs, or another model's leavings, may take memory that was there for the batch before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from cdmodel.clips import Pixels
from cdmodel.errors import RunError

logger = logging.getLogger(__name__)

Answers = TypeVar("Answers")


@dataclass(slots=True)
class BatchLimit:
    """How many clips a model is given at once; None as long as everything has fitted."""

    clips: int | None = None


def score_in_parts(
    score: Callable[[Pixels], Answers], pixels_NTCHW: Pixels, limit: BatchLimit, model: str
) -> list[Answers]:
    """Return the answers to consecutive parts of the batch, which are one where it fits.

    Args:
        score: of the model.
        pixels_NTCHW: the batch.
        limit: of the model on this device; lowered where memory runs out.
        model: its name, for the log.

    Raises:
        RunError: the device has not even the memory for one clip.
    """
    answers: list[Answers] = []
    start, clips = 0, len(pixels_NTCHW)
    while start < clips or not answers:
        part = pixels_NTCHW[start : start + (limit.clips or clips)]
        try:
            answers.append(score(part))
        except torch.OutOfMemoryError as error:
            if len(part) <= 1:
                raise RunError(
                    f"the {model}", "the device has no memory for a single clip; what else uses it?"
                ) from error
            limit.clips = len(part) // 2
        else:
            start += max(len(part), 1)
            continue
        # Beyond the handler, which still holds what the failed batch has allocated.
        torch.cuda.empty_cache()
        logger.warning("no memory for %d clips in the %s: %d at once from here on", len(part), model, limit.clips)
    return answers
