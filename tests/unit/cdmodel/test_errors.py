from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import get_args

import pytest

from cdmodel.cost import ComputeCost
from cdmodel.errors import ErrorKind, LabelingError, VideoError, VideoNotFound
from cdmodel.types import ShardReceipt, VideoFailure, VideoRef


def _below(root: type[LabelingError]) -> Iterator[type[LabelingError]]:
    for subclass in root.__subclasses__():
        yield subclass
        yield from _below(subclass)


EVERY_ERROR = [LabelingError, *_below(LabelingError)]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_an_error_survives_the_way_between_processes(error):
    raised = error("s3://bucket/a.mp4", "is gone")
    for copied in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(copied) is error
        assert (copied.subject, copied.reason) == ("s3://bucket/a.mp4", "is gone")
        assert str(copied) == "s3://bucket/a.mp4: is gone"


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_an_error_says_what_it_means(error):
    assert "__doc__" in vars(error)
    assert error.__doc__


def test_every_kind_of_a_failed_row_has_exactly_one_error():
    kinds = [error.kind for error in VideoError.__subclasses__()]
    assert sorted(kinds) == sorted(get_args(ErrorKind))


def test_a_failure_keeps_the_kind_and_the_reason_but_not_the_address_twice():
    video = VideoRef(video_id="a", uri="/v/a.mp4", video_version="1", size_bytes=None)
    failure = VideoFailure.from_error(
        video,
        VideoNotFound(video.uri, "no such file"),
        facts=None,
        cost=ComputeCost(),
        device="cpu",
        decoder="none",
        labeled_at=datetime.now(UTC),
    )
    assert (failure.error_kind, failure.message) == ("not_found", "no such file")


def test_a_receipt_counts_all_videos_whatever_became_of_them():
    receipt = ShardReceipt(
        run_id="r",
        shard_id="s",
        attempt_id="a",
        fingerprint="f",
        videos_labeled=5,
        videos_partial=2,
        videos_failed=1,
        clips_planned=0,
        clips_student=0,
        clips_teacher=0,
        cost=ComputeCost(),
        committed_at=datetime.now(UTC),
    )
    assert receipt.videos == 8
    assert pickle.loads(pickle.dumps(receipt)) == receipt
