"""The one door to disks and object stores. Names in, bytes out; errors come out as ours.

Knows nothing of what the bytes mean. Objects are only ever created, never changed: ``create`` leaves what stands there.
Settings of S3 (endpoint, credentials, region) come from the environment and the usual profile files, nowhere else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from cdmodel.errors import CommitStateUnknown, StorageUnavailable
from storage.drivers import (
    PutMode,
    filesystem_of,
    info_modified,
    info_version,
    is_busy,
    is_not_implemented,
    is_refusal,
    names_missing_bucket,
    open_remote,
    path_in_filesystem,
    put_whole,
    read_whole,
    reason_of,
    require_bucket,
    store_errors,
    translated_errors,
    unavailable,
)
from storage.local_files import copy_from, create_durably, file_version, walk_files
from storage.range_file import RangeFile
from storage.uri import absolute_uri, base_name, is_local, join_uri

__all__ = ["Store", "StoredObject", "absolute_uri", "open_store", "probe"]

STAGING = ".staging"
"""Where a local store keeps what is not finished: beside the tables, never inside them."""
BUSY_ATTEMPTS = 3
"""Times that a create is tried which the server put off: it is busy, or another one is under way."""
BUSY_SECONDS = 0.2
"""Waited before the second of them, then twice as long each time."""
RANGE_BLOCK_BYTES = 2**18
"""Read ahead of what a Parquet reader asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What a listing tells of an object."""

    name: str
    """Relative to the store."""
    size_bytes: int
    version: str
    """Etag, or size and modification time."""
    modified: datetime | None
    """By the clock of the store; None where it does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder on disk, or a prefix of an object store. Made by ``open_store``; safe to share between threads."""

    root: str
    """Absolute path or URL."""
    staging: Path | None
    """None where one request writes an object."""
    filesystem: Any = field(repr=False, compare=False)

    def uri_of(self, name: str) -> str:
        """Return the absolute name of an object."""
        return join_uri(self.root, name) if name else self.root

    def child(self, name: str) -> Store:
        """Return the store of everything below ``name``."""
        return replace(self, root=self.uri_of(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            StorageUnavailable: there is no such object, or the store does not give it.
        """
        with translated_errors(self.uri_of(name)):
            return read_whole(self.filesystem, self._path(name))

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading in ranges.

        Raises:
            StorageUnavailable: as ``read``; also from reading.
        """
        uri = self.uri_of(name)
        with translated_errors(uri):
            file = open_remote(self.filesystem, self._path(name), RANGE_BLOCK_BYTES)
        return cast("BinaryIO", RangeFile(file, uri, store_errors, lambda error: unavailable(uri, error)))

    def exists(self, name: str) -> bool:
        """Tell whether an object stands under this name.

        Raises:
            StorageUnavailable: it cannot be told.
        """
        return self._size(name) is not None

    def list(self, prefix: str = "") -> tuple[StoredObject, ...]:
        """Return all objects below the folder ``prefix``, ascending by name; a missing folder is empty.

        Raises:
            StorageUnavailable: the store, or its bucket, cannot be listed.
        """
        folder = self.uri_of(prefix)
        with translated_errors(folder):
            found = sorted(
                _list_disk(folder) if self.staging else _list_remote(self.filesystem, self._path(prefix)),
                key=lambda item: item[0],
            )
        below = len(self._path("").strip("/")) + 1
        return tuple(
            StoredObject(name=path.lstrip("/")[below:], size_bytes=size, version=version, modified=modified)
            for path, size, version, modified in found
        )

    def children(self, folder: str = "") -> tuple[str, ...]:
        """Return the names directly below a folder, objects and folders alike, ascending; missing is empty.

        Raises:
            StorageUnavailable: the store, or its bucket, cannot be listed.
        """
        with translated_errors(self.uri_of(folder)):
            try:
                found = self.filesystem.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                require_bucket(self.filesystem, self._path(folder))
                return ()
        own_path = self._path(folder).strip("/")
        names = {base_name(path.rstrip("/")) for path in found if path.strip("/") != own_path}
        return tuple(sorted(names - {""}))

    def create(self, name: str, data: bytes) -> bool:
        """Create an object with all its bytes at once; True if it is ours, False if another one stands there.

        Of two attempts at the same time one wins, where the server honours create-only writes (see ``probe``). Where it
        ignores the condition the later one replaces the earlier; where it does not know it, the earlier one is looked for.

        Raises:
            StorageUnavailable: nothing was created.
            CommitStateUnknown: the object may or may not stand; look before doing it again.
        """
        if self.staging is not None:
            return create_durably(Path(self._path(name)), self.staging, lambda file: _write(file, data))
        mode: PutMode = "create"
        for attempt in range(BUSY_ATTEMPTS):
            try:
                put_whole(self.filesystem, self._path(name), data, mode)
            except store_errors() as error:
                created = self._look_after(name, data, error)
                if created is not None:
                    return created
                if mode == "create" and is_not_implemented(error):
                    mode = "overwrite"
                elif is_busy(error) and attempt + 1 < BUSY_ATTEMPTS:
                    time.sleep(BUSY_SECONDS * 2**attempt)
                else:
                    raise unavailable(self.uri_of(name), error) from error
            else:
                return True
        raise AssertionError("unreachable")

    def create_from_file(self, name: str, path: Path) -> bool:
        """Do as ``create`` with the bytes of a local file, which on an object store must fit in memory."""
        if self.staging is not None:
            return create_durably(Path(self._path(name)), self.staging, copy_from(path))
        return self.create(name, path.read_bytes())

    def delete(self, name: str) -> None:
        """Delete an object; a missing one is fine.

        Raises:
            StorageUnavailable: it may still stand.
        """
        with translated_errors(self.uri_of(name)):
            try:
                self.filesystem.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return path_in_filesystem(self.uri_of(name))

    def _size(self, name: str) -> int | None:
        with translated_errors(self.uri_of(name)):
            try:
                info = self.filesystem.info(self._path(name))
            except FileNotFoundError as error:
                if names_missing_bucket(error):
                    raise
                return None
        return int(info["size"]) if info["type"] == "file" else None

    def _look_after(self, name: str, data: bytes, error: BaseException) -> bool | None:
        """Find out what a failed create left: ours, another's, or (None) nothing. Servers differ in how they say so."""
        if isinstance(error, FileNotFoundError):
            return None  # said of a write, it means the bucket
        try:
            size = self._size(name)
            if size is None:
                return None
            # A request that was repeated inside the client meets its own object.
            return size == len(data) and self.read(name) == data
        except StorageUnavailable as blind:
            raise CommitStateUnknown(
                self.uri_of(name), f"the write failed ({reason_of(error)}) and its outcome cannot be looked at"
            ) from blind


def open_store(uri: str) -> Store:
    """Return the store at a path or URL. Touches nothing: it need not exist yet.

    Raises:
        UsageError: the protocol is unknown, or its driver is not installed.
    """
    root = absolute_uri(uri)
    staging = Path(root) / STAGING if is_local(root) else None
    return Store(root=root, staging=staging, filesystem=filesystem_of(root))


def probe(store: Store) -> bool:
    """Tell whether the store honours create-only writes, by trying; leaves nothing behind.

    Raises:
        StorageError: the store cannot be written at all.
    """
    if store.staging is not None:
        return True
    name = f"{STAGING}/probe-{uuid.uuid4().hex}"
    uri = store.uri_of(name)
    try:
        store.create(name, b"first")
        try:
            put_whole(store.filesystem, path_in_filesystem(uri), b"second", "create")
        except store_errors() as error:
            if not is_refusal(error):
                raise unavailable(uri, error) from error
            return not is_not_implemented(error) and store.read(name) == b"first"
        return False
    finally:
        store.delete(name)


def _list_disk(folder: str) -> Iterator[tuple[str, int, str, datetime | None]]:
    try:
        for found in walk_files(folder, enters=lambda _: True):
            if found.is_regular and found.facts is not None:
                modified = datetime.fromtimestamp(found.facts.st_mtime, UTC)
                yield found.path, found.facts.st_size, file_version(found.facts), modified
    except FileNotFoundError:
        return


def _list_remote(filesystem: Any, path: str) -> Iterator[tuple[str, int, str, datetime | None]]:
    found = filesystem.find(path, detail=True)
    if not found:
        require_bucket(filesystem, path)
    for name, info in found.items():
        # An object that is the prefix itself is no object below it; one ending in a slash stands for a folder.
        if name != path and not name.endswith("/"):
            yield name, info["size"], info_version(info), info_modified(info)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
