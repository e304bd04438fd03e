"""Videos whose pictures a GPU decodes as long as it can; the GPU is a stand-in.

T frames, C channels, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from damaged_videos import erase
from fake_gpu import FakeGpu
from odd_videos import draw_number

from cdmodel.cascade import CascadeSettings, label_video
from cdmodel.clips import ClipBatch
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.errors import NoVideoStream, VideoUnreadable
from cdmodel.gpu_first import ExplainedClips, GpuFirstClips
from cdmodel.models import measure_motion, normalise
from cdmodel.policies import DenseTeacher, Gain
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.testing import TableStudent, TableTeacher, encode_sound, table_models
from cdmodel.types import ClipSpan, VideoRef

DENSE = ClipGeometry(frames=4, height=24, width=32)
CLIPS = 5
FRAMES_PER_CLIP = 8
CONTENT = encode_mp4((draw_number(number, 64, 48) for number in range(CLIPS * FRAMES_PER_CLIP)), FRAMES_PER_CLIP)
LEVELS = 3
GAVE_UP = "the GPU's decoder does not take this video"


@dataclass
class Opener:
    """Opens a video for the CPU, and counts how often."""

    content: bytes
    opened: list[ClipReader] = field(default_factory=list)
    closed: int = 0

    @contextmanager
    def __call__(self) -> Iterator[ClipReader]:
        self.opened.append(ClipReader(io.BytesIO(self.content), "test:video", ClipSampling()))
        yield self.opened[-1]
        self.closed += 1


def _clips(gpu: FakeGpu, content: bytes = CONTENT, *, device: str = "cuda") -> tuple[GpuFirstClips, Opener]:
    opener = Opener(content)
    limits = DecodeLimits()
    return GpuFirstClips(io.BytesIO(content), "test:video", ClipSampling(), limits, device, gpu, opener), opener


def _on_cpu(content: bytes = CONTENT) -> ClipReader:
    return ClipReader(io.BytesIO(content), "test:video", ClipSampling())


def _assert_same(found: list[ClipBatch], expected: list[ClipBatch], levels: int = LEVELS) -> None:
    """Fail unless clips, spans and, within some levels, all pixels agree."""
    assert [index for batch in found for index in batch.clip_indices] == [
        index for batch in expected for index in batch.clip_indices
    ]
    assert [span for batch in found for span in batch.spans] == [span for batch in expected for span in batch.spans]
    one, other = (np.concatenate([b.to_host() for b in batches]).astype(np.int16) for batches in (found, expected))
    assert int(np.abs(one - other).max()) <= levels


def test_pictures_stay_where_the_gpu_has_put_them_and_show_what_the_cpu_would():
    clips, opener = _clips(FakeGpu())
    found = list(clips.read_clips(DENSE, clips_per_batch=2))
    assert all(isinstance(batch.pixels_NTCHW, torch.Tensor) for batch in found)
    _assert_same(found, list(_on_cpu().read_clips(DENSE, clips_per_batch=2)))
    summary, alone = clips.summary(), _on_cpu()
    list(alone.read_clips(DENSE))
    assert (summary.mode, summary.fallback_reason) == ("nvdec", None)
    assert summary.facts == alone.summary().facts
    assert summary.frames_used == alone.summary().frames_used
    assert not opener.opened


def test_wanted_clips_alone_are_read():
    clips, _ = _clips(FakeGpu())
    _assert_same(list(clips.read_clips(DENSE, [1, 4])), list(_on_cpu().read_clips(DENSE, [1, 4])))


@pytest.mark.parametrize("wanted", [None, (0, 2, 3)])
@pytest.mark.parametrize("pictures", [0, 5, 9, 11])
@pytest.mark.parametrize("clips_per_batch", [1, 3])
def test_where_the_gpu_gives_up_the_cpu_goes_on(pictures, wanted, clips_per_batch):
    clips, opener = _clips(FakeGpu(pictures))
    with clips:
        found = list(clips.read_clips(DENSE, wanted, clips_per_batch))
        _assert_same(found, list(_on_cpu().read_clips(DENSE, wanted, clips_per_batch)))
        assert isinstance(found[-1].pixels_NTCHW, np.ndarray)
        again = list(clips.read_clips(DENSE, wanted, clips_per_batch))
        assert all(isinstance(batch.pixels_NTCHW, np.ndarray) for batch in again)
    assert (clips.summary().mode, clips.summary().fallback_reason) == ("planned", GAVE_UP)
    assert (len(opener.opened), opener.closed) == (1, 1)


@pytest.mark.parametrize("pictures", [None, 0, 25])
def test_several_views_come_from_one_pass_on_either(pictures):
    views = (DENSE, ClipGeometry(frames=2, height=12, width=16))
    clips, _ = _clips(FakeGpu(pictures))
    found = list(clips.read_views(views, clips_per_batch=2))
    expected = list(_on_cpu().read_views(views, clips_per_batch=2))
    for one, other in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        _assert_same(list(one), list(other))
    assert clips.summary().mode == ("nvdec" if pictures is None else "planned")
    explained = ExplainedClips(_on_cpu(), "none here")
    assert [len(views) for views in explained.read_views(views)] == [2]


def test_what_both_took_is_added_up():
    clips, opener = _clips(FakeGpu(9))
    list(clips.read_clips(DENSE))
    total, on_cpu = clips.summary(), opener.opened[0].summary()
    assert total.frames_decoded >= on_cpu.frames_decoded + 9
    assert total.frames_used == on_cpu.frames_used + 9
    assert total.packets_read > on_cpu.packets_read
    assert total.cpu_seconds > on_cpu.cpu_seconds
    assert total.first_pass_cpu_seconds == on_cpu.first_pass_cpu_seconds > 0


def test_a_video_that_is_not_worth_it_goes_to_the_cpu_untouched():
    clips, opener = _clips(FakeGpu(), device="auto")
    found = list(clips.read_clips(DENSE))
    _assert_same(found, list(_on_cpu().read_clips(DENSE)), levels=0)
    assert clips.summary().fallback_reason == "pictures of 64 x 48 are not worth a GPU"
    assert clips.summary().frames_decoded == opener.opened[0].summary().frames_decoded


def test_the_first_pass_decides_for_all_others():
    clips, _ = _clips(FakeGpu())
    list(clips.read_clips(ClipGeometry(frames=1, height=8, width=8, keyframes_only=True)))
    assert all(isinstance(batch.pixels_NTCHW, np.ndarray) for batch in clips.read_clips(DENSE))
    assert (clips.summary().mode, clips.summary().fallback_reason) == (
        "keyframes",
        "keyframes alone are not decoded on a GPU",
    )


def test_a_damaged_video_is_read_by_the_cpu_which_sees_the_damage():
    broken = erase(CONTENT, 0.6, 0.05)
    clips, _ = _clips(FakeGpu(), broken)
    alone = _on_cpu(broken)
    expected = list(alone.read_clips(DENSE))
    assert alone.summary().damage is not None
    _assert_same(list(clips.read_clips(DENSE)), expected)
    summary = clips.summary()
    assert (summary.damage, summary.coverage) == (alone.summary().damage, alone.summary().coverage)
    assert summary.mode == "sequential"
    assert summary.fallback_reason.split("; ") == ["a picture is damaged", "a picture is damaged"]


def test_counting_clips_decodes_nothing_and_decides_nothing():
    clips, opener = _clips(FakeGpu())
    assert clips.count_clips() == CLIPS
    assert (clips.summary().frames_decoded, opener.opened) == (0, [])
    assert isinstance(next(clips.read_clips(DENSE)).pixels_NTCHW, torch.Tensor)


@pytest.mark.parametrize(("content", "error"), [(b"no video" * 100, VideoUnreadable), (encode_sound(), NoVideoStream)])
def test_what_is_no_video_fails_as_ever(content, error):
    clips, opener = _clips(FakeGpu(), content)
    with pytest.raises(error):
        next(clips.read_clips(DENSE))
    assert clips.summary().frames_decoded == 0
    assert not opener.opened


def test_a_worker_without_a_gpu_says_so_on_every_video():
    clips = ExplainedClips(_on_cpu(), "this worker sees no CUDA device")
    assert clips.count_clips() == CLIPS
    _assert_same(list(clips.read_clips(DENSE)), list(_on_cpu().read_clips(DENSE)), levels=0)
    assert (clips.summary().mode, clips.summary().fallback_reason) == ("planned", "this worker sees no CUDA device")


VIDEO = VideoRef(video_id="a.mp4", uri="/videos/a.mp4", video_version="1", size_bytes=1)


@pytest.mark.parametrize(("gpu", "mode", "reason"), [(FakeGpu(), "nvdec", None), (FakeGpu(0), "planned", GAVE_UP)])
@pytest.mark.parametrize("policy", [DenseTeacher(), Gain(min_gain=-1.0)])
def test_a_prediction_says_where_its_video_was_decoded(gpu, mode, reason, policy):
    answers_NK = np.tile([0.7, 0.3], (20, 1))
    sure_N = np.full(20, 0.9)
    models = table_models(TableStudent(answers_NK, sure_N, sure_N), TableTeacher(answers_NK), labels=("run", "jump"))
    clips, _ = _clips(FakeGpu(gpu.pictures))
    prediction = label_video(
        VIDEO, clips, models, CascadeSettings(policy=policy, aggregation=models.manifest.default_aggregation)
    )
    assert (prediction.decode_mode, prediction.decode_fallback) == (mode, reason)
    assert prediction.clips_planned == CLIPS


def test_models_see_the_same_in_a_tensor_as_in_an_array():
    pixels_NTCHW = np.random.default_rng(3).integers(0, 256, size=(2, 3, 3, 8, 8), dtype=np.uint8)
    tensor_NTCHW = torch.from_numpy(pixels_NTCHW)
    spec = table_models(TableStudent([[1.0]], [1.0], [1.0]), TableTeacher([[1.0]]), labels=("run", "jump")).student.spec
    cpu = torch.device("cpu")
    assert torch.equal(normalise(tensor_NTCHW, spec, cpu), normalise(pixels_NTCHW, spec, cpu))
    np.testing.assert_allclose(measure_motion(tensor_NTCHW), measure_motion(pixels_NTCHW), rtol=1e-5)
    np.testing.assert_array_equal(measure_motion(tensor_NTCHW[:, :1]), [0, 0])


@pytest.mark.parametrize(
    "make", [lambda shape: np.zeros(shape, np.uint8), lambda shape: torch.zeros(shape, dtype=torch.uint8)]
)
def test_a_batch_can_be_cut_behind_a_clip(make):
    spans = tuple(ClipSpan(start_seconds=index, end_seconds=index + 1) for index in (2, 5, 7))
    batch = ClipBatch(clip_indices=(2, 5, 7), spans=spans, pixels_NTCHW=make((3, 1, 3, 2, 2)))
    assert batch.after(1) is batch
    rest = batch.after(5)
    assert (rest.clip_indices, rest.spans, tuple(rest.pixels_NTCHW.shape)) == ((7,), spans[2:], (1, 1, 3, 2, 2))
    assert batch.after(7) is None


def test_a_batch_on_a_device_must_be_of_bytes_too():
    with pytest.raises(ValueError, match="uint8"):
        ClipBatch(clip_indices=(), spans=(), pixels_NTCHW=torch.zeros((0, 1, 3, 2, 2)))
