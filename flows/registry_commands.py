"""The commands ``models``: which bundles a registry has, which one is in use, and how that changes."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import Debug, Json, as_lines, one_line_errors, show
from flows.mlflow_commands import export_mlflow, import_mlflow

if TYPE_CHECKING:
    from storage.alias_history import AliasMove
    from storage.registry import RegisteredBundle
    from tasks.move_alias import Mover

RegistryPlace = Annotated[str, typer.Argument(metavar="REGISTRY", help="Folder or URL of the model registry.")]
BundleName = Annotated[str, typer.Argument(metavar="NAME", help="Alias, such as production, or version, m-...")]
Alias = Annotated[str, typer.Option(help="The name whose meaning changes.")]
Why = Annotated[str, typer.Option(metavar="TEXT", help="Kept in the history.")]

models = typer.Typer(
    name="models",
    help="The model registry: list, show, promote, rollback, history, and the way to MLflow and back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@models.command("list")
@one_line_errors
def list_models(registry: RegistryPlace, json_output: Json = False, debug: Debug = False) -> None:
    """List the bundles of a registry, oldest first, and what each alias means."""
    from flows.tables import as_text
    from storage.registry import open_registry

    opened = open_registry(registry)
    aliases = {move.alias: move.model_version for move in opened.aliases()}
    bundles = [_bundle_facts(bundle, aliases) for bundle in opened.bundles()]
    rows = [
        (facts["model_version"], _minute(facts["added_at"]), facts["size_bytes"], ", ".join(facts["aliases"]))
        for facts in bundles
    ]
    text = as_text(("model_version", "added_at", "size_bytes", "aliases"), rows) if rows else "no bundles yet"
    show({"registry": opened.uri, "aliases": aliases, "bundles": bundles}, text, json_output)


@models.command("show")
@one_line_errors
def show_model(registry: RegistryPlace, name: BundleName, json_output: Json = False, debug: Debug = False) -> None:
    """Show a bundle: its labels, where it came from, what was measured, and when which alias began to mean it."""
    from storage.registry import open_registry

    opened = open_registry(registry)
    version = opened.resolve(name)
    manifest = opened.manifest(version)
    current = opened.aliases()
    facts = _bundle_facts(opened.bundle(version), {move.alias: move.model_version for move in current})
    moves = [move for alias in current for move in opened.history(alias.alias) if move.model_version == version]
    facts |= {
        "label_kind": manifest.label_kind,
        "labels": list(manifest.labels),
        "metrics": manifest.metrics,
        "provenance": manifest.provenance,
        "history": [asdict(move) for move in moves],
    }
    lines = {
        **facts,
        "added_at": _minute(facts["added_at"]),
        "aliases": ", ".join(facts["aliases"]) or "none",
        "labels": ", ".join(manifest.labels),
    }
    for name_of_table in ("metrics", "provenance", "history"):
        del lines[name_of_table]
    lines |= manifest.metrics | {f"provenance.{key}": value for key, value in manifest.provenance.items()}
    show(facts, f"{as_lines(lines)}\n\n{_history_text(moves)}", json_output)


@models.command("promote")
@one_line_errors
def promote(
    registry: RegistryPlace,
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Folder, URL or REGISTRY@ALIAS, or a version that the registry has.")
    ],
    alias: Alias = "production",
    why: Why = "",
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Let an alias mean a bundle, which is added to the registry first if it is not there."""
    from tasks.move_alias import promote_bundle

    _show_move(registry, promote_bundle(registry, bundle, alias, _mover(why)), json_output)


@models.command("rollback")
@one_line_errors
def rollback(
    registry: RegistryPlace, alias: Alias = "production", why: Why = "", json_output: Json = False, debug: Debug = False
) -> None:
    """Let an alias mean the version before the current one; again, the one before that."""
    from tasks.move_alias import roll_back

    _show_move(registry, roll_back(registry, alias, _mover(why)), json_output)


@models.command("history")
@one_line_errors
def history(
    registry: RegistryPlace,
    alias: Annotated[str, typer.Option(help="Whose moves.")] = "production",
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """List every move of an alias, oldest first: when, who, from what to what, and why."""
    from storage.registry import open_registry

    opened = open_registry(registry)
    opened.resolve(alias)
    moves = opened.history(alias)
    facts = {"registry": opened.uri, "alias": alias, "moves": [asdict(move) for move in moves]}
    show(facts, _history_text(moves), json_output)


models.command("export-mlflow")(export_mlflow)
models.command("import-mlflow")(import_mlflow)


def _mover(why: str) -> Mover:
    from tasks.move_alias import Mover

    return Mover(moved_by=f"{_user()}@{socket.gethostname()}", reason=why)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id often has no name
        return "unknown"


def _bundle_facts(bundle: RegisteredBundle, aliases: dict[str, str]) -> dict[str, Any]:
    return {
        **asdict(bundle),
        "aliases": sorted(name for name, meant in aliases.items() if meant == bundle.model_version),
    }


def _show_move(registry: str, move: AliasMove, json_output: bool) -> None:
    before = "meant nothing before" if move.previous is None else f"meant {move.previous} before"
    text = f"{registry}@{move.alias} means {move.model_version} now ({before}); move {move.number}"
    show(asdict(move), text, json_output)


def _history_text(moves: Sequence[AliasMove]) -> str:
    from flows.tables import as_text

    columns = ("alias", "number", "moved_at", "action", "model_version", "previous", "moved_by", "reason")
    rows = [
        (m.alias, m.number, _minute(m.moved_at), m.action, m.model_version, m.previous, m.moved_by, m.reason)
        for m in moves
    ]
    return as_text(columns, rows) if rows else "no alias ever meant it"


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"
