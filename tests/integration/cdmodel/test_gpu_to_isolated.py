"""A video that a GPU gives up is read on by a decoder in a process of its own; the GPU is a stand-in."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu

from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool
from cdmodel.gpu_first import GpuFirstClips
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.testing import encode_numbered_clips

CLIPS = 12
DENSE = ClipGeometry(frames=4, height=24, width=32)


def test_the_cpu_goes_on_in_a_process_of_its_own():
    content, sampling, limits = encode_numbered_clips(CLIPS), ClipSampling(), DecodeLimits()
    pool = DecoderPool()
    try:
        open_on_cpu = partial(pool.read, partial(io.BytesIO, content), "test:video", sampling, limits)
        file = io.BytesIO(content)
        with GpuFirstClips(file, "test:video", sampling, limits, "cuda", FakeGpu(10), open_on_cpu) as clips:
            kinds, levels = [], []
            for batch in clips.read_clips(DENSE, clips_per_batch=1):
                kinds.append(type(batch.pixels_NTCHW))
                levels.append(round(float(batch.to_host().mean())))
                del batch
            summary = clips.summary()
        expected = [
            round(float(batch.to_host().mean()))
            for batch in ClipReader(file, "test:video", sampling).read_clips(DENSE, clips_per_batch=1)
        ]
    finally:
        pool.close()
    assert kinds == [torch.Tensor] * 2 + [np.ndarray] * (CLIPS - 2)
    assert levels == pytest.approx(expected, abs=1)
    assert summary.fallback_reason == "the GPU's decoder does not take this video"
