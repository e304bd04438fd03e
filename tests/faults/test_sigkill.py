"""A process that the kernel kills, in the middle of whatever it is at: nobody cleans up, and the next command goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from killed_process import Death
from small_archive import Archive
from watched_disk import WatchedDisk, moments_of, steps_of
from witness import Witness

from cdmodel.decoder_name import DECODER_NAME
from tasks.run_request import LabelingPlan

KILLS = 8
REPOSITORY = Path(__file__).parents[2]


def test_a_run_whose_process_was_killed_is_completed_by_the_next_command(archive: Archive, disk: WatchedDisk):
    plan = archive.open()
    assert isinstance(plan, LabelingPlan)
    undisturbed = archive.copied("undisturbed")
    labeled = steps_of(disk, lambda: undisturbed.label_pending(plan.header))
    published = steps_of(disk, lambda: undisturbed.publish(plan.header.run_id))
    # The killed process reads the plan's header first, which is one step.
    number_of = {len(labeled) + 1 + step.number: step for step in published} | {
        1 + step.number: step for step in labeled
    }
    draws = random.Random(11)
    chosen = sorted(
        draws.sample(sorted(number for number, step in number_of.items() if len(moments_of(step)) > 1), KILLS)
    )
    killed = [archive.copied(f"killed-{number}") for number in chosen]
    deaths = [
        Death(
            out=one.out,
            run_id=plan.header.run_id,
            attempt=one.next_attempt(),
            now=archive.clock.now.isoformat(),
            fails=archive.fails,
            decoder=DECODER_NAME,
            step=number,
            moment=draws.choice(moments_of(number_of[number])),
        )
        for number, one in zip(chosen, killed, strict=True)
    ]
    assert _ends_of(deaths) == [signal.SIGKILL] * KILLS
    for one, death in zip(killed, deaths, strict=True):
        witness = Witness(one)
        try:
            witness.look()
            one.label_until_done()
            assert len(witness.look_at_the_end().rows) == 4
        except BaseException as error:
            error.add_note(f"killed {death.moment} {number_of[death.step]}")
            raise


def _ends_of(deaths: list[Death]) -> list[int]:
    script = [sys.executable, str(Path(__file__).with_name("killed_process.py"))]
    deaths_json = json.dumps([asdict(death) for death in deaths])
    process = subprocess.run(
        script,
        input=deaths_json,
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=60,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    ends = json.loads(process.stdout)
    assert isinstance(ends, list)
    return ends
