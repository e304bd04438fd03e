"""Files on a disk: walked in one pass, and created so that a reader sees all of a file or none of it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cdmodel.errors import CommitStateUnknown, StorageUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A name met on the way through a tree."""

    path: str
    facts: os.stat_result | None
    """None where the name cannot be followed: a dangling link."""

    @property
    def is_regular(self) -> bool:
        """Tell whether there are bytes to read: not a pipe, a device or a dangling link."""
        return self.facts is not None and stat.S_ISREG(self.facts.st_mode)


def walk_files(root: str, enters: Callable[[str], bool]) -> Iterator[FoundFile]:
    """Yield everything below ``root`` that is not a folder, in no particular order; links are followed, loops are not.

    Args:
        root: a folder.
        enters: given a folder's own name, tells whether to look inside.

    Raises:
        OSError: a folder cannot be listed.
    """
    top = os.stat(root)  # noqa: PTH116 - strings all the way: a million Path objects cost more than the walk
    yield from _walk(root, enters, ((top.st_dev, top.st_ino),))


def file_version(facts: os.stat_result) -> str:
    """Return the version of a file that has no etag: size and modification time."""
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def stat_or_none(path: str) -> os.stat_result | None:
    """Return what the file system says of a name, links followed; None where there is nothing behind it."""
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return None


def create_durably(target: Path, staging: Path, write: Callable[[BinaryIO], None]) -> bool:
    """Create ``target`` with all its bytes at once, or leave what stands there; True if it is ours now.

    The bytes are staged on the same file system, flushed to disk, then linked into place, which no crash can halve.

    Raises:
        StorageUnavailable: nothing was created.
        CommitStateUnknown: the file stands, but the disk did not confirm that it will survive a power cut.
    """
    staged = staging / uuid.uuid4().hex
    try:
        return _link_new(target, staged, write)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) and staged.exists():
            reason = "this file system has no hard links, which creating a file safely needs; use another one"
        else:
            reason = f"cannot be written ({error.strerror})"
        raise StorageUnavailable(str(target), reason) from error
    finally:
        with suppress(OSError):
            staged.unlink()


def copy_from(source: Path) -> Callable[[BinaryIO], None]:
    """Return a writer, for ``create_durably``, of another file's bytes."""

    def write(file: BinaryIO) -> None:
        with source.open("rb") as origin:
            shutil.copyfileobj(origin, file, 2**20)

    return write


def _link_new(target: Path, staged: Path, write: Callable[[BinaryIO], None]) -> bool:
    _make_folders(staged.parent)
    with staged.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    _make_folders(target.parent)
    ours = True
    try:
        target.hardlink_to(staged)
    except FileExistsError:
        # A network file system may repeat a request that had succeeded: then the file that stands there is ours.
        ours = target.samefile(staged)
    try:
        # Also for another's file: whoever linked it may have died before this, and the caller will build on it.
        _flush_folder(target.parent)
    except OSError as error:
        raise CommitStateUnknown(str(target), f"the folder could not be flushed ({error.strerror})") from error
    return ours


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: str, enters: Callable[[str], bool], above: tuple[tuple[int, int], ...]) -> Iterator[FoundFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield FoundFile(path=entry.path, facts=stat_or_none(entry.path))
            elif enters(entry.name):
                facts = entry.stat()
                identity = (facts.st_dev, facts.st_ino)
                if identity not in above:
                    yield from _walk(entry.path, enters, (*above, identity))
