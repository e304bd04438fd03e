from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.kept_ranges import KeptRangesFile
from storage.read_ahead import ReadAhead

CONTENT = random.Random(0).randbytes(5000)


@st.composite
def settings_of_read_ahead(draw: st.DrawFn) -> ReadAhead:
    first = draw(st.integers(10, 60))
    most = draw(st.integers(first, 300))
    before = draw(st.integers(0, 60))
    kept = draw(st.integers(before + most + first, 2000))
    return ReadAhead(
        first_bytes=first,
        before_bytes=before,
        most_bytes=most,
        whole_file_bytes=draw(st.sampled_from((0, kept // 2, kept))),
        kept_bytes=kept,
    )


class CountingStore:
    """Gives ranges of the content and knows what it gave."""

    def __init__(self, size_bytes: int, settings: ReadAhead) -> None:
        self.content = CONTENT[:size_bytes]
        self.ranges: list[tuple[int, int]] = []
        self.file = KeptRangesFile(self.fetch, size_bytes, settings)
        self.settings = settings

    def fetch(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.content)
        # Room is made before the request.
        assert self.file.kept_bytes + end - start <= self.settings.kept_bytes
        self.ranges.append((start, end))
        return self.content[start:end]


STEPS = st.lists(st.tuples(st.integers(0, 5100), st.one_of(st.integers(0, 700), st.just(-1))), max_size=60)


@given(settings=settings_of_read_ahead(), size_bytes=st.integers(0, 5000), steps=STEPS)
def test_any_seeks_and_reads_give_the_bytes_of_the_file_within_the_bound(
    settings: ReadAhead, size_bytes: int, steps: list[tuple[int, int]]
):
    store = CountingStore(size_bytes, settings)
    for offset, size in steps:
        assert store.file.seek(offset) == offset
        expected = store.content[offset:] if size < 0 else store.content[offset : offset + size]
        assert store.file.read(size) == expected
        assert store.file.tell() == offset + len(expected)
        assert store.file.kept_bytes <= settings.kept_bytes


@given(settings=settings_of_read_ahead(), steps=STEPS)
def test_what_fits_in_memory_is_never_fetched_twice(settings: ReadAhead, steps: list[tuple[int, int]]):
    store = CountingStore(settings.kept_bytes, settings)
    for offset, size in steps:
        store.file.seek(offset)
        store.file.read(size)
    fetched = sorted(store.ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(fetched))


@given(settings=settings_of_read_ahead(), piece=st.integers(1, 400))
def test_reading_to_the_end_fetches_every_byte_once_in_few_requests(settings: ReadAhead, piece: int):
    store = CountingStore(5000, settings)
    assert b"".join(iter(lambda: store.file.read(piece), b"")) == CONTENT
    assert sum(end - start for start, end in store.ranges) == 5000
    doublings = (settings.most_bytes // settings.first_bytes).bit_length()
    assert len(store.ranges) <= doublings + 5000 / settings.most_bytes + 1


def test_a_read_that_failed_can_be_tried_again():
    answers = iter([OSError("broke off"), b"abcdef"])

    def fetch(start: int, end: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    file = KeptRangesFile(fetch, 6, ReadAhead())
    file.seek(2)
    with pytest.raises(OSError, match="broke off"):
        file.read(3)
    assert file.tell() == 2
    assert file.read(3) == b"cde"


@given(seed=st.integers(0, 2**32), index_in_front=st.booleans())
def test_ten_clips_of_an_hour_cost_at_most_16_requests_and_20_mb(seed: int, index_in_front: bool):
    """An access like that of a decoder: the index, then half a megabyte in each tenth of the file, in its own small steps.

    Never close to one another: reading ahead would take clips that follow at once for the rest of the file.
    """
    size_bytes, index_bytes, clip_bytes, step_bytes = 413_000_000, 1_100_000, 500_000, 32_768
    places = random.Random(seed)
    requests: list[int] = []

    def fetch(start: int, end: int) -> bytes:
        requests.append(end - start)
        return bytes(end - start)

    file = KeptRangesFile(fetch, size_bytes, ReadAhead())
    spans = [(0, step_bytes), (0, index_bytes) if index_in_front else (size_bytes - index_bytes, size_bytes)]
    tenth = size_bytes // 10
    starts = [number * tenth + places.randrange(tenth // 2) for number in range(10)]
    spans += [(start, start + clip_bytes) for start in starts]
    for start, end in spans:
        file.seek(start)
        while file.tell() < end:
            file.read(step_bytes)
    assert len(requests) <= 16
    assert sum(requests) <= 20_000_000


def test_a_closed_file_holds_nothing_and_fetches_nothing():
    store = CountingStore(100, ReadAhead())
    store.file.read(10)
    store.file.close()
    assert store.file.kept_bytes == 0
    with pytest.raises(ValueError, match="closed"):
        store.file.read(10)
