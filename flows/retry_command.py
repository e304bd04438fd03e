"""The command ``retry``: label again what failed, with the settings it failed under."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cdmodel.errors import ConfigError, ErrorKind, RunError
from flows.command import (
    Assignments,
    ConfigFile,
    Debug,
    Json,
    Models,
    Out,
    Scheduler,
    Strict,
    Workers,
    one_line_errors,
    say,
)
from flows.label_commands import run_label, show_record

if TYPE_CHECKING:
    from flows.config import LabelRunConfig
    from storage.filesystem import Store
    from storage.run_store import RunState

OWN_SETTINGS = ("run_id", "relabel", "retry", "profile")
"""Of a run, and not of the work it did."""


@one_line_errors
def retry(
    out: Out,
    reason: Annotated[
        list[str] | None, typer.Option("--reason", help="Only what failed in this way; repeatable. [default: all]")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Finished run whose settings count. [default: the latest]")
    ] = None,
    models: Models = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    strict: Strict = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Label again what failed, quarantined videos too. A retry that was interrupted goes on where it stopped."""
    from flows.config import to_request
    from storage.filesystem import open_store
    from tasks.work_identity import resolve_work

    reasons = _check_reasons(reason or [])
    store = open_store(out)
    base = _find_finished(store, run)
    settings = _retry_config(store, base, reasons, models, config, assignments, scheduler, workers)
    header = base.header
    kinds = f" as {' or '.join(reasons)}" if reasons else ""
    say(f"retrying what failed{kinds} in {header.source}, with the settings of run {header.run_id}")
    if resolve_work(to_request(settings)).fingerprint != header.fingerprint:
        say("models or settings differ from that run's; the rows get a fingerprint of their own")
    show_record(settings, run_label(settings, debug), strict, json_output)


def _check_reasons(reasons: list[str]) -> list[str]:
    known = get_args(ErrorKind)
    for reason in reasons:
        if reason not in known:
            raise ConfigError(f"--reason {reason}", f"must be one of {', '.join(known)}")
    return sorted(set(reasons))


def _find_finished(store: Store, run_id: str | None) -> RunState:
    """Return the run of that name, or the latest that is finished."""
    from storage.output import check_output
    from storage.run_store import find_run, list_runs

    check_output(store)
    if run_id is not None:
        named = find_run(store, run_id)
        if not named.finished:
            raise RunError(run_id, "is not finished; finish it first")
        return named
    finished = [run for run in list_runs(store) if run.finished]
    if not finished:
        raise RunError(store.root, "no finished run stands here, so nothing has failed yet")
    return finished[-1]


def _retry_config(
    store: Store,
    base: RunState,
    reasons: list[str],
    models: str | None,
    config: Path | None,
    assignments: list[str] | None,
    scheduler: str | None,
    workers: int | None,
) -> LabelRunConfig:
    from flows.config import load_config

    defaults = _settings_of(store, base.header.run_id)
    if base.header.bundle_asked is not None and defaults.get("models", {}).get("bundle") == base.header.bundle_asked:
        # The alias may mean another bundle by now; what failed is tried again with the one that it failed under.
        defaults["models"] = {**defaults["models"], "bundle": base.header.bundle_uri}
    if scheduler is not None or workers is not None:
        # A local cluster's workers and the address of another one exclude each other.
        cluster = defaults.get("cluster", {})
        defaults["cluster"] = {name: cluster[name] for name in cluster if name not in ("scheduler", "workers")}
    return load_config(
        config,
        assignments or [],
        {
            "source": base.header.source,
            "out": store.root,
            "corpus_name": base.header.corpus,
            "models.bundle": models,
            "cluster.scheduler": scheduler,
            "cluster.workers": workers,
            "retry": {"run_id": base.header.run_id, "reasons": reasons},
        },
        defaults,
    )


def _settings_of(store: Store, run_id: str) -> dict[str, Any]:
    """Return what a run was told, but for what is its own."""
    from storage.run_layout import config_name

    try:
        settings = tomllib.loads(store.read(config_name(run_id)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(store.uri_of(config_name(run_id)), f"is not TOML: {error}") from error
    return {name: value for name, value in settings.items() if name not in OWN_SETTINGS}
