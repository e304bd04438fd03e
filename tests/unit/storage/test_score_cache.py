from __future__ import annotations

import io
from dataclasses import fields, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored_videos import LABELS, scored_role, scoring_context

from cdmodel.errors import DamagedObject
from cdmodel.score_entry import UnreadableVideo
from storage.filesystem import open_store
from storage.score_cache import ScoreCache, read_score_cache, write_score_cache

NAME = "scores/a.parquet"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


def _cache(videos: int = 7) -> ScoreCache:
    return ScoreCache(
        context=scoring_context(),
        content_sha256="c0ffee",
        entries=scored_role("test", videos),
        unreadable=(UnreadableVideo(uri="/v/broken.mp4", reason="not a video"),),
    )


def test_what_was_written_comes_back_bit_for_bit(store):
    cache = _cache()
    assert write_score_cache(store, NAME, cache)
    back = read_score_cache(store, NAME)
    assert replace(back, entries=()) == replace(cache, entries=())
    for entry, found in zip(cache.entries, back.entries, strict=True):
        assert (found.video, found.spans, found.duration_seconds) == (entry.video, entry.spans, entry.duration_seconds)
        assert found.answers.seconds == entry.answers.seconds
        assert (found.answers.video_id, found.answers.group) == (entry.answers.video_id, entry.answers.group)
        assert found.answers.truth_K.tolist() == entry.answers.truth_K.tolist()
        assert _bits(found.answers.teacher_logits_NK) == _bits(entry.answers.teacher_logits_NK)
        for field in fields(entry.answers.student):
            ours, theirs = (getattr(answers.student, field.name) for answers in (entry.answers, found.answers))
            assert _bits(ours) == _bits(theirs), field.name


def test_extreme_and_odd_floats_survive(store):
    entry = scored_role("cal", 1)[0]
    odd = np.array([np.finfo(np.float32).max, 1e-45, -0.0, np.float32(0.1), -3e38, 5.0], dtype=np.float32)
    teacher_NK = np.tile(odd, (len(entry.spans), 1))
    entry = replace(entry, answers=replace(entry.answers, teacher_logits_NK=teacher_NK))
    write_score_cache(store, NAME, replace(_cache(), entries=(entry,)))
    assert _bits(read_score_cache(store, NAME).entries[0].answers.teacher_logits_NK) == _bits(teacher_NK)


def test_a_part_of_which_nothing_could_be_read_is_a_file_too(store):
    write_score_cache(store, NAME, replace(_cache(), entries=()))
    assert read_score_cache(store, NAME).entries == ()
    assert read_score_cache(store, NAME).unreadable[0].reason == "not a video"


def test_rows_come_ascending_by_video_id(store):
    cache = _cache()
    write_score_cache(store, NAME, replace(cache, entries=cache.entries[::-1]))
    ids = [entry.video.video.video_id for entry in read_score_cache(store, NAME).entries]
    assert ids == sorted(ids)


def test_an_sql_engine_reads_the_scores(store):
    cache = _cache()
    write_score_cache(store, NAME, cache)
    rows = duckdb.sql(
        f"select video_id, labels[1], len(student_logits), len(student_logits[1]), teacher_logits[1][2], model_version "
        f"from read_parquet('{store.uri_of(NAME)}') order by video_id"
    ).fetchall()
    for entry, row in zip(cache.entries, rows, strict=True):
        clips, first = len(entry.spans), float(entry.answers.teacher_logits_NK[0, 1])
        assert row == (entry.answers.video_id, entry.video.labels[0], clips, len(LABELS), first, "m-000000000001")


def test_a_second_file_does_not_replace_the_first(store):
    assert write_score_cache(store, NAME, _cache(2))
    assert not write_score_cache(store, NAME, _cache(3))
    assert len(read_score_cache(store, NAME).entries) == 2


@pytest.mark.parametrize("cut", [0, 3, 500, -20])
def test_a_cut_file_is_refused_by_name(store, cut):
    write_score_cache(store, NAME, _cache())
    store.create("scores/cut.parquet", store.read(NAME)[:cut])
    with pytest.raises(DamagedObject, match=r"cut\.parquet"):
        read_score_cache(store, "scores/cut.parquet")


def test_another_table_is_refused(store):
    store.create(NAME, _parquet(pa.table({"x": [1]})))
    with pytest.raises(DamagedObject, match="not a cache of scores"):
        read_score_cache(store, NAME)


def test_scores_of_another_schema_are_refused(store):
    write_score_cache(store, NAME, _cache())
    table = pq.read_table(pa.BufferReader(store.read(NAME)))
    header = table.schema.metadata[b"cdlabel_scores"].replace(b'"schema_version":1', b'"schema_version":2')
    store.create("scores/new.parquet", _parquet(table.replace_schema_metadata({"cdlabel_scores": header})))
    with pytest.raises(DamagedObject, match="schema 2"):
        read_score_cache(store, "scores/new.parquet")


def test_rows_that_do_not_fit_the_labels_are_refused(store):
    write_score_cache(store, NAME, replace(_cache(), context=replace(scoring_context(), labels=LABELS[:5])))
    with pytest.raises(DamagedObject, match="rows cannot be read"):
        read_score_cache(store, NAME)


def _bits(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(values.dtype), values.shape, values.tobytes()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
