"""What OUT may hold: our own tables, or nothing yet."""

from __future__ import annotations

import os
from pathlib import Path

from cdmodel.errors import OutputError, StorageError, UsageError
from storage.filesystem import STAGING, Store, open_store, probe
from storage.run_layout import COMPACTED, PREDICTIONS, RUNS, RUNS_TABLE
from storage.uri import base_name, is_local, parent_uri

OURS = frozenset({PREDICTIONS, RUNS_TABLE, RUNS, COMPACTED, STAGING})


def check_output(store: Store) -> None:
    """Refuse an OUT that holds something else or cannot be read. Writes nothing.

    Raises:
        OutputError: naming what was found, or why the place cannot be used.
    """
    if store.staging is not None and Path(store.root).is_file():
        raise OutputError(store.root, "is a file; OUT must be a folder")
    try:
        foreign = sorted(set(store.children()) - OURS)
    except (StorageError, UsageError) as error:
        raise OutputError(store.root, f"OUT cannot be used: {error.reason}") from error
    if foreign:
        raise OutputError(store.root, f"holds something else ({foreign[0]}); name an empty or a new folder")


def check_writable(store: Store) -> bool:
    """Find out whether OUT can be written, and return whether create-only writes are honoured there.

    A bucket is tried with an object that is deleted again; a disk is asked.

    Raises:
        OutputError: it cannot be written.
    """
    if store.staging is not None and not os.access(_nearest_folder(Path(store.root)), os.W_OK | os.X_OK):
        raise OutputError(store.root, "OUT cannot be written: permission denied, or the disk is read-only")
    try:
        return probe(store)
    except (StorageError, OSError) as error:
        reason = error.reason if isinstance(error, StorageError) else error.strerror
        raise OutputError(store.root, f"OUT cannot be written: {reason}") from error


def open_place(uri: str) -> tuple[Store, str]:
    """Return the store of the folder that a new object is to lie in, and its name there; ``uri`` is absolute.

    Raises:
        OutputError: it names a whole bucket or host.
        UsageError: the protocol is unknown, or its driver is not installed.
    """
    folder = parent_uri(uri)
    if not is_local(uri) and is_local(folder):
        raise OutputError(uri, f"names no object; name one in it, such as {uri}/labels")
    return open_store(folder), base_name(uri)


def _nearest_folder(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())
