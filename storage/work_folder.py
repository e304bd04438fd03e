"""The working folder of a training run: what a killed process leaves, so that the same command goes on.

Lies beside the target on a local disk, belongs to one set of inputs, and is held by one process at a time. Knows nothing
of what it keeps.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cdmodel.errors import OutputError

KEY_NAME = "work.json"
LAYOUT = 1
"""Of what lies in the folder; another version does not go on from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """An open working folder."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """Return what was written last under this name; None where nothing was."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace what stands under this name; a kill leaves either the old or the new bytes.

        Raises:
            OutputError: the disk does not take it.
        """
        unfinished = self.path / f"{name}.new"
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path / name)
        except OSError as error:
            raise OutputError(str(self.path), f"cannot be written ({error.strerror})") from error

    def remove(self) -> None:
        """Delete the folder and all it holds."""
        shutil.rmtree(self.path)


def new_folder(target: str) -> Path:
    """Return the place of what is about to be trained.

    Raises:
        OutputError: it is not local, or exists already.
    """
    if "://" in target:
        raise OutputError(target, "what is trained is written to a local folder; copy it from there")
    folder = Path(target)
    if folder.exists():
        raise OutputError(target, "exists already; name a new folder")
    return folder


@contextmanager
def hold_work_folder(target: Path, key: str) -> Iterator[WorkFolder]:
    """Open the working folder of ``target``, or make it; nobody else can until the block ends.

    Args:
        target: what the work is for; the folder is called ``.NAME.work`` and lies beside it.
        key: hash of everything that decides the outcome.

    Raises:
        OutputError: it was made for another key, another process holds it, or it cannot be written.
    """
    path = target.parent / f".{target.name}.work"
    lock = _lock(path, target)
    try:
        folder = WorkFolder(path=path)
        _check_key(folder, target, key)
        yield folder
    finally:
        os.close(lock)


def _lock(path: Path, target: Path) -> int:
    """Make the folder and take its lock, which dies with the process, however that ends; return what to close."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise OutputError(str(path), f"cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise OutputError(str(target), "another process is training it right now") from error
    return lock


def _check_key(folder: WorkFolder, target: Path, key: str) -> None:
    wanted = {"layout": LAYOUT, "key": key}
    content = folder.read(KEY_NAME)
    if content is None:
        folder.write(KEY_NAME, json.dumps(wanted).encode())
        return
    found = None
    with suppress(ValueError):
        found = json.loads(content)
    if found != wanted:
        raise OutputError(
            str(target),
            f"{folder.path} holds an unfinished training on other videos or settings; go on with those, name another "
            "target, or delete that folder",
        )
