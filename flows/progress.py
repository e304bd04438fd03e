"""How far a run is, on the console and on Prefect's page."""

from __future__ import annotations

import time
from types import TracebackType
from typing import cast
from uuid import UUID

from prefect import runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cdmodel.types import ShardReceipt
from flows.command import say
from flows.embedded_prefect import outlives_this_process
from storage.run_store import RunHeader

SECONDS_BETWEEN_ARTIFACT_UPDATES = 2.0


class LabelingProgress:
    """A bar on stderr and a progress artifact, both counting videos."""

    def __init__(self, header: RunHeader, *, videos_done: int) -> None:
        self._videos = header.videos
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn(
                "videos, {task.fields[clips]} clips, {task.fields[escalated]} escalated, {task.fields[failed]} failed"
            ),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        # A resumed run counts what stood in storage as done.
        self._completed = videos_done
        self._clips_student = self._clips_teacher = self._failed = 0
        self._artifact = cast(
            "UUID",
            create_progress_artifact(
                self._percent(), key="labeling", description=f"Run {header.run_id}: {header.videos} videos"
            ),
        )
        self._artifact_updated = time.monotonic()
        self._row = self._bar.add_task(
            "label", total=header.videos, completed=self._completed, clips="0", escalated="0%", failed=0
        )

    def __enter__(self) -> LabelingProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar standing and bring the artifact up to date."""
        self._bar.stop()
        if kind is None:
            update_progress_artifact(self._artifact, self._percent())

    def advance(self, receipt: ShardReceipt) -> None:
        """Count a committed shard."""
        self._completed = min(self._completed + receipt.videos, self._videos)
        self._clips_student += receipt.clips_student
        self._clips_teacher += receipt.clips_teacher
        self._failed += receipt.videos_failed
        clips = max(self._clips_student, self._clips_teacher)
        share = f"{self._clips_teacher / max(clips, 1):.0%}"
        self._bar.update(self._row, completed=self._completed, clips=f"{clips:,}", escalated=share, failed=self._failed)
        if time.monotonic() - self._artifact_updated > SECONDS_BETWEEN_ARTIFACT_UPDATES:
            update_progress_artifact(self._artifact, self._percent())
            self._artifact_updated = time.monotonic()

    def _percent(self) -> float:
        return 100.0 * self._completed / self._videos if self._videos else 100.0


def tell_where_to_look(dashboard: str | None) -> None:
    """Print the addresses of the run's pages: Dask's, and Prefect's where its server outlives the command."""
    if dashboard is not None:
        say(f"Dask dashboard: {dashboard}")
    flow_run_id, api = runtime.flow_run.get_id(), get_current_settings().api.url
    if flow_run_id is not None and api is not None and outlives_this_process(api):
        say(f"Prefect page: {url_for('flow-run', flow_run_id)}")
