from __future__ import annotations

import io
import os
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdmodel.cost import ComputeCost
from cdmodel.errors import SourceError
from cdmodel.types import VideoFailure, VideoOutcome, VideoRef
from storage.filesystem import absolute_uri, open_store
from storage.manifest import read_manifest_rows
from storage.parquet import to_bytes
from storage.prediction_schema import REPETITIVE_TEXT, SCHEMA_VERSION, RowContext, outcomes_to_table
from storage.run_store import RunHeader, create_plan, iter_shards, make_shard, read_header
from storage.uri import lies_inside, local_path, storable_uri

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
file_names = st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
relative_names = st.lists(st.sampled_from(["..", ".", "a", "b.mp4", "", "..."]), min_size=1, max_size=6).map("/".join)
video_refs = st.builds(
    VideoRef,
    video_id=texts,
    uri=texts,
    video_version=texts,
    size_bytes=st.none() | st.integers(0, 2**62),
)


@given(file_names)
def test_every_path_has_a_storable_name_that_leads_back(name: bytes):
    path = "/videos/" + os.fsdecode(name)
    uri = storable_uri(path)
    uri.encode("utf-8")
    assert os.fsencode(local_path(uri)) == b"/videos/" + name


@given(
    st.text(st.characters(exclude_characters="\0"), min_size=1).filter(lambda text: text.strip() and "::" not in text)
)
def test_an_absolute_name_stays_as_it_is(text: str):
    once = absolute_uri("/" + text)
    assert absolute_uri(once) == once


@FEW
@given(relative_names)
def test_no_relative_name_leads_out_of_a_manifests_folder(tmp_path: Path, name: str):
    (tmp_path / "m.csv").write_text(f'uri\n"{name}"\n')
    try:
        (uri,) = read_manifest_rows(str(tmp_path / "m.csv"), (), ()).uris
    except SourceError:
        return
    assert lies_inside(os.path.realpath(uri), str(tmp_path))


@FEW
@given(st.lists(video_refs, min_size=1, max_size=12, unique_by=lambda video: video.video_id), st.integers(1, 5))
def test_a_plan_comes_back_as_it_was_frozen(videos: list[VideoRef], videos_per_shard: int):
    ordered = sorted(videos, key=lambda video: video.video_id)
    cuts = range(0, len(ordered), videos_per_shard)
    shards = [make_shard(ordered[cut : cut + videos_per_shard], "f") for cut in cuts]
    header = RunHeader(
        run_id="r",
        fingerprint="f",
        model_version="m-0",
        bundle_uri=None,
        source="/videos",
        corpus="films",
        run_date=date(2026, 11, 23),
        created_at=AT,
        videos=len(videos),
        shards=len(shards),
        bytes=sum(video.size_bytes or 0 for video in videos),
        videos_skipped=0,
        schema_version=SCHEMA_VERSION,
    )
    store = open_store(f"memory://plans-{os.urandom(8).hex()}")
    assert create_plan(store, header, shards, "")
    assert list(iter_shards(store, "r")) == shards
    assert read_header(store, "r") == header


@FEW
@given(st.lists(st.tuples(video_refs, st.text(max_size=30)), min_size=1, max_size=5))
def test_a_message_of_any_characters_becomes_a_row(failures: list[tuple[VideoRef, str]]):
    outcomes: list[VideoOutcome] = [
        VideoFailure(
            video=video,
            error_kind="unreadable",
            message=message + "\udcff",
            facts=None,
            cost=ComputeCost(bytes_read=len(message)),
            device="cpu",
            decoder="none",
            labeled_at=AT,
        )
        for video, message in failures
    ]
    context = RowContext(
        run_id="r",
        shard_id="s",
        attempt_id="a",
        corpus="films",
        model_version="m-0",
        run_date=AT.date(),
        fingerprint="f",
        prices=None,
    )
    table = outcomes_to_table(outcomes, context)
    assert pq.read_table(io.BytesIO(to_bytes(table, REPETITIVE_TEXT))).equals(table)
    ids = table.column("video_id").to_pylist()
    assert ids == sorted(video.video_id for video, _ in failures)
    assert all(message.endswith("\\udcff") for message in table.column("error_message").to_pylist())


@pytest.mark.parametrize("uri", ["s3://bucket/a/", "s3://bucket/a", "S3://bucket/a//"])
def test_a_url_loses_its_trailing_slashes_only(uri: str):
    assert absolute_uri(uri) == "s3://bucket/a"
