"""Of a damaged video every good clip comes, no corrupt frame is in any, and what is lost is told."""

from __future__ import annotations

import pytest
from damaged_videos import erase, judge, truncate
from odd_videos import odd_video

from cdmodel.decode_survey import DecodeSummary
from cdmodel.errors import DecodeError, NoFrames, VideoUnreadable

TENTHS = range(1, 10)
NAMES = ("index-first.mp4", "fragments.mp4", "open-groups.mkv", "h264.ts", "mpeg4-longer.avi", "h264.flv", "raw.h264")


@pytest.mark.parametrize("name", NAMES)
def test_a_video_cut_off_at_every_tenth_of_its_length(name):
    outcomes = [judge(truncate(odd_video(name), tenth / 10), f"{name}, {tenth} tenths") for tenth in TENTHS]
    read = [isinstance(outcome, DecodeSummary) for outcome in outcomes]
    assert read == sorted(read), "the more there is the more can be read"
    assert any(read)
    assert all(isinstance(outcome, VideoUnreadable | NoFrames | DecodeError | DecodeSummary) for outcome in outcomes)


def test_a_video_cut_off_is_partial_where_its_length_is_declared():
    name = "index-first.mp4"
    outcomes = [judge(truncate(odd_video(name), tenth / 10), f"{name}, {tenth} tenths") for tenth in TENTHS]
    summaries = [outcome for outcome in outcomes if isinstance(outcome, DecodeSummary)]
    assert len(summaries) >= 7
    assert all(summary.coverage < 1 and summary.damage is not None for summary in summaries)


@pytest.mark.parametrize("name", NAMES)
def test_a_video_of_which_a_part_is_zeros(name):
    outcomes = [judge(erase(odd_video(name), tenth / 10, 0.06), f"{name}, from {tenth} tenths") for tenth in range(10)]
    assert sum(isinstance(outcome, DecodeSummary) for outcome in outcomes) >= 7


def test_a_video_whose_index_is_at_its_end_is_lost_with_it():
    content = odd_video("long.mp4")
    assert all(isinstance(judge(truncate(content, tenth / 10), "long.mp4"), VideoUnreadable) for tenth in TENTHS)


@pytest.mark.parametrize("name", ["index-first.mp4", "open-groups.mkv", "h264.ts"])
def test_a_video_whose_first_pictures_are_lost_begins_with_the_first_that_is_whole(name):
    content = odd_video(name)
    first = content.index(b"mdat") + 8 if name == "index-first.mp4" else len(content) // 5
    damaged = content[:first] + bytes(len(content) // 10) + content[first + len(content) // 10 :]
    summary = judge(damaged, name)
    assert isinstance(summary, DecodeSummary)
    assert summary.facts.duration_seconds
