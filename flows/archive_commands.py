"""Commands over what stands in OUT, and over what it needs: status, verify, query, compact, gc and doctor."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from flows.command import EXIT_FAILED, Debug, Json, Models, Out, as_lines, one_line_errors, show


@one_line_errors
def status(
    out: Out,
    run: Annotated[str | None, typer.Argument(help="Name of the run. [default: the latest]")] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say how far a run is: videos planned, labeled, partial, failed, pending, and the cost so far."""
    from tasks.read_status import read_status

    facts = asdict(read_status(out, run))
    facts |= facts.pop("cost")
    show(facts, as_lines(facts), json_output)


@one_line_errors
def verify(out: Out, json_output: Json = False, debug: Debug = False) -> None:
    """Check that every planned video has exactly one row and every file is intact; exit 1 and the list if not."""
    from flows.bars import counted_bar
    from tasks.verify_output import verify_output

    with counted_bar("verify", "runs and generations") as advance:
        problems = verify_output(out, advance)
    text = "\n".join(f"{p.kind} {p.video_id or p.path}: {p.detail}" for p in problems) or "ok"
    show({"ok": not problems, "problems": [asdict(problem) for problem in problems]}, text, json_output)
    if problems:
        raise typer.Exit(EXIT_FAILED)


@one_line_errors
def query(
    out: Out,
    sql: Annotated[
        str, typer.Argument(help="DuckDB SQL over predictions, latest, clips, failures, runs, labels and more.")
    ],
    json_output: Json = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    debug: Debug = False,
) -> None:
    """Answer a question about the labels, their cost, or what failed."""
    from flows.tables import as_csv, as_text
    from storage.filesystem import open_store
    from storage.views import run_query

    answer = run_query(open_store(out), sql)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    show(rows, (as_csv if csv_output else as_text)(answer.columns, answer.rows), json_output)


@one_line_errors
def compact(out: Out, json_output: Json = False, debug: Debug = False) -> None:
    """Merge what all finished runs have published into OUT/compacted, which queries then read; nothing is taken away."""
    from flows.bars import counted_bar
    from tasks.compact_output import compact_output

    with counted_bar("compact", "partitions") as advance:
        facts = asdict(compact_output(out, advance))
    show(facts, as_lines(facts), json_output)


@one_line_errors
def gc(
    out: Out,
    older_than: Annotated[float, typer.Option(min=0, help="Hours that something must have been of no use.")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Delete what no reader and no unfinished run can need any more: leftovers, shards of finished runs, old generations."""
    from flows.bars import counted_bar
    from tasks.collect_garbage import collect_garbage

    with counted_bar("gc", "steps") as advance:
        garbage = collect_garbage(out, grace=timedelta(hours=older_than), dry_run=dry_run, on_progress=advance)
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {found.objects} objects, {found.bytes} bytes: {found.kind}" for found in garbage.found]
    lines += [f"kept {kept.path}: {kept.reason}" for kept in garbage.kept]
    show(asdict(garbage), "\n".join(lines) or "nothing to delete", json_output)


@one_line_errors
def doctor(
    out: Annotated[str | None, typer.Option("--out", help="Also check this folder or bucket.")] = None,
    models: Models = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine: packages, models, GPU, decoder, and access to a bucket."""
    from tasks.check_environment import check_environment

    checks = check_environment(out, models)
    text = "\n".join(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}" for check in checks)
    show([asdict(check) for check in checks], text, json_output)
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_FAILED)
