"""Where an export goes: a new file or folder on a disk, or new objects of a store. Made beside it, put in place when whole.

Nothing that stands is touched. On a disk the export appears at once; of a folder in a store the objects come one after
another, what tells what they are (``README.md``, ``labels.json``) last.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cdmodel.errors import CommitStateUnknown, OutputError, StorageError
from storage.filesystem import Store
from storage.output import open_place
from storage.uri import absolute_uri, is_local


@contextmanager
def new_export(destination: str) -> Iterator[Path]:
    """Yield a local path to write a file or folder to, which is put at the destination if all goes well.

    Raises:
        OutputError: something stands at the destination, or it cannot be written.
        CommitStateUnknown: a write to the store timed out: look what stands there, and delete it.
    """
    uri = absolute_uri(destination)
    with _beside(Path(uri)) if is_local(uri) else _before_upload(uri) as staged:
        yield staged


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield a name beside the target; whatever stands there at the end is taken away again."""
    import duckdb

    if os.path.lexists(target):
        raise OutputError(str(target), "exists already; name a new file or folder")
    if not target.parent.is_dir():
        raise OutputError(str(target), f"its folder {target.parent} does not exist")
    staged = target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex}")
    try:
        yield staged
        _put_in_place(staged, target)
    except (OSError, duckdb.IOException) as error:
        raise OutputError(str(target), f"cannot be written ({_reason(error)})") from error
    finally:
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):
            staged.unlink()


def _put_in_place(staged: Path, target: Path) -> None:
    """Give the export its name, unless something stands there by now: a link and a folder's rename never replace."""
    try:
        if staged.is_dir():
            staged.rename(target)
        else:
            target.hardlink_to(staged)
    except OSError as error:
        if os.path.lexists(target):
            raise OutputError(str(target), "exists by now; name a new file or folder") from error
        raise


@contextmanager
def _before_upload(uri: str) -> Iterator[Path]:
    """Yield a name in a folder for temporary files; what stands there at the end is sent to the store."""
    import duckdb

    try:
        store, name = open_place(uri)
        if store.exists(name) or store.children(name):
            raise OutputError(uri, "exists already; name a new object or folder")
        with tempfile.TemporaryDirectory(prefix="cdlabel-export-") as folder:
            staged = Path(folder) / name
            yield staged
            _upload(staged, store, uri)
    except CommitStateUnknown:
        raise
    except StorageError as error:
        raise OutputError(uri, f"cannot be written: {error.reason}") from error
    except (OSError, duckdb.IOException) as error:
        advice = "point TMPDIR at a folder with room"
        raise OutputError(tempfile.gettempdir(), f"cannot be written ({_reason(error)}); {advice}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else " ".join(str(error).split())


def _upload(staged: Path, store: Store, uri: str) -> None:
    """Create an object for each file, those of folders within first; if that fails, delete those that are ours."""
    files = [staged] if staged.is_file() else [file for file in staged.rglob("*") if file.is_file()]
    files.sort(key=lambda file: (-len(file.parts), file))
    ours: list[str] = []
    try:
        for file in files:
            name = str(file.relative_to(staged.parent))
            if not store.create_from_file(name, file):
                raise OutputError(store.uri_of(name), "exists by now; name a new object or folder")
            ours.append(name)
    except BaseException:
        for name in ours:
            with suppress(StorageError):
                store.delete(name)
        raise
