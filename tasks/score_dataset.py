"""Run both models of a bundle over all clips of labeled videos, once, and keep what they said.

Works in parts that are written one by one, so that a killed evaluation goes on, and another one with the same bundle,
videos and sampling starts with everything done. The clips go through the networks in the batches of a live run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from cdmodel.cascade import ask_student, ask_teacher
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import DamagedObject, DecodeError, VideoError
from cdmodel.labels import truth_by_name
from cdmodel.models import CascadeModels
from cdmodel.replay import CachedVideo, ClipFlops, VideoSeconds
from cdmodel.sampling import ClipSampling
from cdmodel.score_entry import ScoredEntry, ScoringContext, UnreadableVideo
from cdmodel.types import LabeledVideo
from storage.filesystem import Store
from storage.score_cache import ScoreCache, read_score_cache, write_score_cache
from tasks.worker_decoder import open_clips

SCORES = "scores"
VIDEOS_PER_PART = 100
"""A killed evaluation loses at most this many videos' work."""
OnScored = Callable[[int, int], None]
"""Takes how many videos are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDataset:
    """Every video that could be read, in the order of the parts, and those that could not."""

    context: ScoringContext
    entries: tuple[ScoredEntry, ...]
    unreadable: tuple[UnreadableVideo, ...]


_KEYS = TypeAdapter(tuple[ScoringContext, tuple[LabeledVideo, ...]])


def score_dataset(
    videos: Sequence[LabeledVideo],
    models: CascadeModels,
    sampling: ClipSampling,
    store: Store,
    on_progress: OnScored,
    *,
    videos_per_part: int = VIDEOS_PER_PART,
    teacher_of: Mapping[str, ScoredEntry] | None = None,
) -> ScoredDataset:
    """Return both models' answers to all clips of the videos; parts that stand in ``store`` are read instead.

    A label that the bundle does not know is no label of its videos: an answer is never right by it.

    Args:
        videos: to be scored, in any order.
        models: of one bundle.
        sampling: of the clips.
        store: where the parts are kept.
        on_progress: told how many videos are done.
        videos_per_part: what a killed evaluation loses at most.
        teacher_of: entries, by ``video_id``, that the very same teacher has answered already, on the same clips; it is
            not run on those videos again, and what it took there counts here.

    Raises:
        StorageError: a part can neither be read nor written.
    """
    context = scoring_context(models, sampling)
    ordered = sorted(videos, key=lambda video: video.video.video_id)
    entries: list[ScoredEntry] = []
    unreadable: list[UnreadableVideo] = []
    for start in range(0, len(ordered), videos_per_part):
        part = ordered[start : start + videos_per_part]

        def advance(done: int, before: int = start) -> None:
            on_progress(before + done, len(ordered))

        cache = _load_or_score(part, models, context, store, advance, teacher_of or {})
        advance(len(part))
        entries += cache.entries
        unreadable += cache.unreadable
    return ScoredDataset(context=context, entries=tuple(entries), unreadable=tuple(unreadable))


def scoring_context(models: CascadeModels, sampling: ClipSampling) -> ScoringContext:
    """Return under what these models score."""
    return ScoringContext(
        model_version=models.model_version,
        labels=models.manifest.labels,
        label_kind=models.manifest.label_kind,
        sampling=sampling,
        flops=ClipFlops(student=models.student.flops_per_clip, teacher=models.teacher.flops_per_clip),
        device=models.device_name,
        decoder=DECODER_NAME,
    )


def score_one(
    labeled: LabeledVideo, models: CascadeModels, sampling: ClipSampling, known: ScoredEntry | None = None
) -> ScoredEntry:
    """Return both models' raw answers to every clip of one video, with the seconds of each stage.

    With ``known``, which the same teacher has answered, its answers are taken from there if the clips are the same.

    Raises:
        VideoError: it cannot be read, or two passes over it gave different clips.
    """
    uri = labeled.video.uri
    with open_clips(labeled.video, sampling, DecodeLimits()) as reader:
        student, spans, student_cost = ask_student(reader, models)
        decode_student_seconds = reader.summary().cpu_seconds
        if known is not None and known.spans == spans:
            answers = known.answers
            teacher_NK, seconds = answers.teacher_logits_NK, answers.seconds
            decode_teacher_seconds, teacher_seconds = seconds.decode_teacher, seconds.teacher
        else:
            teacher_NK, batches, teacher_cost = ask_teacher(reader, models, None)
            if sum(len(batch.spans) for batch in batches) != len(spans):
                raise DecodeError(uri, "two passes over the video gave different clips")
            decode_teacher_seconds = reader.summary().cpu_seconds - decode_student_seconds
            teacher_seconds = teacher_cost.teacher_seconds
    summary = reader.summary()
    labels = models.manifest.labels
    return ScoredEntry(
        video=labeled,
        duration_seconds=summary.facts.duration_seconds,
        spans=spans,
        answers=CachedVideo(
            video_id=labeled.video.video_id,
            group=labeled.group,
            truth_K=truth_by_name([labeled.labels], labels)[0],
            student=student,
            teacher_logits_NK=teacher_NK,
            seconds=VideoSeconds(
                decode_student=decode_student_seconds,
                decode_teacher=decode_teacher_seconds,
                student=student_cost.student_seconds,
                teacher=teacher_seconds,
            ),
        ),
    )


def _load_or_score(
    videos: Sequence[LabeledVideo],
    models: CascadeModels,
    context: ScoringContext,
    store: Store,
    on_progress: Callable[[int], None],
    teacher_of: Mapping[str, ScoredEntry],
) -> ScoreCache:
    content = hashlib.sha256(_KEYS.dump_json((context, tuple(videos)))).hexdigest()
    name = f"{SCORES}/{content[:16]}.parquet"
    if store.exists(name):
        return _matching(read_score_cache(store, name), content, store, name)
    outcomes = list(_score_all(videos, models, context.sampling, on_progress, teacher_of))
    cache = ScoreCache(
        context=context,
        content_sha256=content,
        entries=tuple(outcome for outcome in outcomes if isinstance(outcome, ScoredEntry)),
        unreadable=tuple(outcome for outcome in outcomes if isinstance(outcome, UnreadableVideo)),
    )
    # Another evaluation may have been faster: what stands there is what the next one will read.
    return cache if write_score_cache(store, name, cache) else read_score_cache(store, name)


def _score_all(
    videos: Sequence[LabeledVideo],
    models: CascadeModels,
    sampling: ClipSampling,
    on_progress: Callable[[int], None],
    teacher_of: Mapping[str, ScoredEntry],
) -> Iterator[ScoredEntry | UnreadableVideo]:
    for done, labeled in enumerate(videos, start=1):
        try:
            yield score_one(labeled, models, sampling, teacher_of.get(labeled.video.video_id))
        except VideoError as error:
            yield UnreadableVideo(uri=labeled.video.uri, reason=error.reason)
        on_progress(done)


def _matching(cache: ScoreCache, content: str, store: Store, name: str) -> ScoreCache:
    if cache.content_sha256 != content:
        raise DamagedObject(store.uri_of(name), "holds the scores of other videos than its name says; delete it")
    return cache
