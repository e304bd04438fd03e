"""Writes a document where a person wants it: whole or not at all, in place of an older one on a disk."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from cdmodel.errors import OutputError, StorageError
from storage.output import open_place
from storage.uri import absolute_uri, is_local

STANDS_ALREADY = "stands there already; name a new file"


def write_document(place: str, content: bytes) -> str:
    """Write a document and return its absolute name. On a disk it replaces an older one; an object is created only once.

    Raises:
        OutputError: the place cannot be written, is no file, or another object stands there.
    """
    uri = absolute_uri(place)
    if is_local(uri):
        _replace_file(Path(uri), content)
        return uri
    try:
        store, name = open_place(uri)
        created = store.create(name, content)
    except StorageError as error:
        raise OutputError(uri, f"cannot be written: {error.reason}") from error
    if not created:
        raise OutputError(uri, "stands there already, and objects are never changed; name another one")
    return uri


def require_new_document(place: str) -> None:
    """Find out whether ``write_document`` will be able to create a document; writes nothing.

    Raises:
        OutputError: something stands there, its folder does not exist, or nothing can be created in it.
    """
    uri = absolute_uri(place)
    if is_local(uri):
        _require_new_file(Path(uri))
        return
    try:
        store, name = open_place(uri)
        stands = store.exists(name)
    except StorageError as error:
        raise OutputError(uri, f"cannot be written: {error.reason}") from error
    if stands:
        raise OutputError(uri, STANDS_ALREADY)


def _require_new_file(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise OutputError(str(target), STANDS_ALREADY)
    if not target.parent.is_dir():
        raise OutputError(str(target), "its folder does not exist; make it first, or name another file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(str(target), "cannot be written: its folder may not be written to")


def _replace_file(target: Path, content: bytes) -> None:
    """Write beside the target and rename, so that whoever reads meanwhile sees the older one or the new one."""
    if target.exists() and not target.is_file():
        raise OutputError(str(target), "is a folder; name a file" if target.is_dir() else "is no regular file")
    staged = target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex}")
    try:
        with staged.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    except OSError as error:
        raise OutputError(str(target), f"cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            staged.unlink()
