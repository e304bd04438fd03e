"""A disk that refuses to be written, from any step on: one clear error, nothing half, and it goes on once it can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from small_archive import Archive
from watched_disk import DiskFails, WatchedDisk, steps_of
from witness import Witness

from cdmodel.errors import LabelingError
from storage.filesystem import STAGING

WRITES = ("mkdir", "create file", "write", "fsync", "link", "flush folder")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_every_write_from_any_step_on_stops_the_run_and_loses_nothing(
    archive: Archive, disk: WatchedDisk, code: int
):
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    resumed: set[str] = set()
    # A disk that became read-only differs from a full one in that it takes no first half: a sample will do.
    every = 1 if code == errno.ENOSPC else 4
    for step in [step for step in steps if step.kind in WRITES][::every]:
        one = archive.at(f"{archive.out}-{step.number}")
        witness = Witness(one)
        with disk.process(DiskFails(step.number, code, WRITES)), pytest.raises(LabelingError) as caught:
            one.label()
        assert os.strerror(code) in str(caught.value), step
        assert "\n" not in str(caught.value)
        staging = Path(one.out) / STAGING
        assert not staging.exists() or list(staging.iterdir()) == [], step
        witness.look()
        if witness.standing not in resumed:
            resumed.add(witness.standing)
            one.label_until_done()
            witness.look_at_the_end()
