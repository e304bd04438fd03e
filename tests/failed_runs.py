"""Runs whose videos all fail, which is as good as labeling them to whoever asks what is left to do."""

from __future__ import annotations

from collections.abc import Callable

from cdmodel.cost import ComputeCost
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import ErrorKind
from cdmodel.types import VideoFailure, VideoRef
from storage.filesystem import open_store
from storage.prediction_schema import RowContext
from storage.run_store import RunHeader, commit_shard, iter_shards
from tasks.finish_run import publish_and_record


def fail_all(out: str, header: RunHeader, kind_of: Callable[[VideoRef], ErrorKind]) -> None:
    """Fail every video of a planned run, each in its way, and finish the run."""
    store = open_store(out)
    for shard in iter_shards(store, header.run_id):
        context = RowContext(
            run_id=header.run_id,
            shard_id=shard.shard_id,
            attempt_id="attempt-1",
            corpus=header.corpus,
            model_version=header.model_version,
            run_date=header.run_date,
            fingerprint=header.fingerprint,
            prices=None,
        )
        outcomes = [
            VideoFailure(
                video=video,
                error_kind=kind_of(video),
                message="failed",
                facts=None,
                cost=ComputeCost(),
                device="cpu",
                decoder=DECODER_NAME,
                labeled_at=header.created_at,
            )
            for video in shard.videos
        ]
        commit_shard(store, outcomes, context, header.created_at)
    publish_and_record(out, header.run_id, config_json="{}", code_version="0")
