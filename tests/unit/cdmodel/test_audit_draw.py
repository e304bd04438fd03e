"""Which videos are audited: a share of them, by what they are and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdmodel.audit_draw import AuditSettings, is_drawn
from cdmodel.types import VideoRef

VIDEOS = [
    VideoRef(video_id=f"v{number}", uri=f"/videos/{number}.mp4", video_version="10-1", size_bytes=10)
    for number in range(20_000)
]


def _drawn(settings: AuditSettings, videos: list[VideoRef] = VIDEOS) -> set[str]:
    return {video.video_id for video in videos if is_drawn(settings, video)}


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_about_the_share_is_drawn_and_another_seed_draws_others(share):
    first, second = _drawn(AuditSettings(share=share)), _drawn(AuditSettings(share=share, seed=1))
    spread = (share * (1 - share) / len(VIDEOS)) ** 0.5
    for drawn in (first, second):
        assert len(drawn) / len(VIDEOS) == pytest.approx(share, abs=4 * spread)
    assert len(first & second) / len(VIDEOS) == pytest.approx(share**2, abs=4 * share / len(VIDEOS) ** 0.5)


def test_nothing_and_everything_are_exact():
    assert _drawn(AuditSettings(share=0.0)) == set()
    assert len(_drawn(AuditSettings(share=1.0))) == len(VIDEOS)


def test_a_larger_share_draws_the_same_videos_and_more():
    assert _drawn(AuditSettings(share=0.05)) < _drawn(AuditSettings(share=0.1))


def test_where_a_video_lies_and_what_recording_it_is_of_decide_nothing_but_its_version_does():
    settings = AuditSettings(share=0.5)
    moved = [replace(video, uri="/elsewhere.mp4", size_bytes=None, group="g") for video in VIDEOS[:500]]
    assert _drawn(settings, moved) == _drawn(settings, VIDEOS[:500])
    changed = [replace(video, video_version="11-2") for video in VIDEOS[:500]]
    assert _drawn(settings, changed) != _drawn(settings, VIDEOS[:500])


def test_an_id_of_any_text_can_be_drawn():
    assert is_drawn(AuditSettings(share=1.0), replace(VIDEOS[0], video_id="caf\u00e9 \udcff"))
