"""What follows from audited videos; above all that the interval covers the truth as often as it says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cdmodel.audit import AuditedVideos, agreement_interval, assess_audit, effective_videos, likeness
from cdmodel.audit_draw import AuditSettings, is_drawn
from cdmodel.intervals import wilson
from cdmodel.types import VideoRef

NIGHTS, VIDEOS, GROUP_SIZE = 500, 600, 5
GROUPS = [f"recording-{number // GROUP_SIZE}" for number in range(VIDEOS)]
NO_GROUPS = [None] * VIDEOS


@pytest.fixture(scope="module")
def drawn_NV() -> np.ndarray:
    """Which of a night's videos are audited, by the draw of a live run; every night has a seed of its own."""
    videos = [VideoRef(video_id=f"v{n}", uri=f"/v{n}", video_version="1", size_bytes=1) for n in range(VIDEOS)]
    nights = [AuditSettings(share=0.3, seed=night) for night in range(NIGHTS)]
    return np.array([[is_drawn(night, video) for video in videos] for night in nights])


def _agreements(share: float, likeness: float) -> Iterator[np.ndarray]:
    """Yield which videos agree, night by night; ``likeness`` is the correlation within a recording."""
    random = np.random.default_rng(20261125)
    groups = VIDEOS // GROUP_SIZE
    for _ in range(NIGHTS):
        if likeness == 0:
            share_G = np.full(groups, share)
        else:
            pull = 1 / likeness - 1
            share_G = random.beta(share * pull, (1 - share) * pull, groups)
        yield random.random(VIDEOS) < np.repeat(share_G, GROUP_SIZE)


def _covered(drawn_NV: np.ndarray, share: float, likeness: float, groups: list[str | None], *, of_night: bool) -> float:
    """Return the share of nights whose interval holds the true agreement: that night's own, or that of all nights."""
    hits = 0
    for drawn_V, agreed_V in zip(drawn_NV, _agreements(share, likeness), strict=True):
        places = np.flatnonzero(drawn_V)
        interval = agreement_interval(agreed_V[places], [groups[place] for place in places])
        hits += interval.low <= (agreed_V.mean() if of_night else share) <= interval.high
    return hits / NIGHTS


@pytest.mark.parametrize("share", [0.7, 0.9, 0.98])
@pytest.mark.parametrize(
    ("likeness", "groups", "of_night"),
    [
        (0.0, NO_GROUPS, False),
        (0.0, NO_GROUPS, True),
        (0.5, NO_GROUPS, True),
        (0.0, GROUPS, False),
        (0.5, GROUPS, False),
    ],
    ids=["independent", "independent-that-night", "alike-that-night", "independent-grouped", "alike-grouped"],
)
def test_the_interval_covers_the_true_agreement_in_93_of_100_nights_or_more(
    drawn_NV, share, likeness, groups, of_night
):
    assert _covered(drawn_NV, share, likeness, groups, of_night=of_night) >= 0.93


def test_without_groups_recordings_that_agree_together_are_taken_for_more_than_they_are(drawn_NV):
    # Why groups are asked for at all: of all nights, not of this one, the plain interval promises too much.
    assert _covered(drawn_NV, 0.9, 0.5, NO_GROUPS, of_night=False) < 0.93


def test_without_groups_it_is_wilsons_interval():
    agreed_V = np.array([True] * 47 + [False] * 3)
    for groups in ([None] * 50, [f"g{n}" for n in range(50)]):
        ours, wilsons = agreement_interval(agreed_V, groups), wilson(47, 50)
        assert (ours.low, ours.estimate, ours.high) == pytest.approx((wilsons.low, wilsons.estimate, wilsons.high))


@pytest.mark.parametrize("agreed", [0, 1, 20, 39, 40])
@pytest.mark.parametrize("size", [1, 2, 8, 40])
def test_knowing_the_groups_never_makes_it_narrower(agreed, size):
    agreed_V = np.arange(40) < agreed
    # Groups whose videos agree in turn spread less than chance.
    for groups in ([f"g{n // size}" for n in range(40)], [f"g{n % (40 // size)}" for n in range(40)]):
        ours, plain = agreement_interval(agreed_V, groups), wilson(agreed, 40)
        assert ours.low <= plain.low + 1e-12
        assert ours.high >= plain.high - 1e-12
        assert 0 <= ours.low <= ours.high <= 1


def test_videos_that_are_wholly_alike_count_by_the_recording():
    # 20 recordings of 5; less what it costs to know so few (Student's t with 19 degrees of freedom).
    groups = [f"g{n // 5}" for n in range(100)]
    for recordings_that_agree in (15, 20):
        agreed_V = np.repeat(np.arange(20) < recordings_that_agree, 5)
        assert effective_videos(agreed_V, groups) == pytest.approx(20 * (1.959964 / 2.093024) ** 2, rel=1e-5)


def test_the_likeness_is_that_of_the_analysis_of_variance_drawn_towards_one():
    videos_G, agreed_G = np.array([2.0, 2, 2, 2]), np.array([2.0, 2, 1, 0])
    # Between: 2 (3/8)^2 (twice), 2 (1/8)^2, 2 (5/8)^2 over 3; within: 1/2 over 4; groups of 2.
    between, within = 1.375 / 3, 0.125
    estimate = (between - within) / (between + within)
    assert likeness(videos_G, agreed_G) == pytest.approx((2 * estimate + 1) / 3)
    assert likeness(videos_G, videos_G) == 1.0, "nothing is known where all agree"


def test_one_recording_alone_is_worth_one_video_and_unknown_recordings_are_their_own():
    assert effective_videos(np.array([True] * 30), ["g"] * 30) == 1.0
    assert effective_videos(np.array([True] * 30), [None] * 30) == 30


def test_the_findings_are_those_of_the_videos():
    found = assess_audit(
        AuditedVideos(
            agreed_V=np.array([True, True, True, False]),
            confidence_V=np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32),
            groups=["a", "a", "b", None],
        )
    )
    assert (found.videos, found.groups, found.agreement.estimate) == (4, 2, 0.75)
    assert found.confidence == pytest.approx(0.75, abs=1e-6)
    # So few share one bin, in which confidence and agreement are the same on average.
    assert found.calibration_error == pytest.approx(0.0, abs=1e-6)


def test_without_known_groups_there_is_no_number_of_them():
    found = assess_audit(AuditedVideos(agreed_V=np.ones(3, dtype=bool), confidence_V=np.ones(3), groups=[None] * 3))
    assert found.groups is None


def test_confidence_that_promises_too_much_shows():
    random = np.random.default_rng(1)
    said_V = random.uniform(0.5, 1.0, 3000)
    honest_V, boastful_V = random.random(3000) < said_V, random.random(3000) < said_V - 0.2
    errors = [
        assess_audit(AuditedVideos(agreed_V=agreed_V, confidence_V=said_V, groups=[None] * 3000)).calibration_error
        for agreed_V in (honest_V, boastful_V)
    ]
    assert errors[0] < 0.04
    assert errors[1] == pytest.approx(0.2, abs=0.04)


def test_no_video_at_all_has_no_findings():
    with pytest.raises(ValueError, match="no videos"):
        assess_audit(AuditedVideos(agreed_V=np.array([], dtype=bool), confidence_V=np.array([]), groups=[]))
