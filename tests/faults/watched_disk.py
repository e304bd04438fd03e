"""The storage layer's steps, one by one, each of which can be the last: what a fault test strikes at.

``WatchedDisk.install`` puts itself under ``storage.local_files`` (mkdir, open, write, fsync, link, flush of a folder,
unlink), under the one request by which an object store creates an object (put, delete), and around the door's reads.
What happens at a step is a ``Fate``; ``DiesAt`` kills the process there, so that whatever it would still do, its
``finally`` clauses included, has no effect: the files that a dead process leaves behind stay.

``fsync`` is written down, not done: ``cut_power`` takes back what was not flushed.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PosixPath
from typing import Any, Literal

import pytest

import storage.filesystem
import storage.local_files
from storage.filesystem import Store

Moment = Literal["before", "half", "after"]
READS = ("read", "open", "exists", "list", "children")
EFFECTS = ("mkdir", "create file", "write", "fsync", "link", "flush folder", "unlink", "put", "delete")


class Crash(BaseException):
    """The process is gone. No ``except Exception`` may live on after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that a process is about to do."""

    number: int
    """Counted from 1, per process."""
    kind: str
    """One of ``READS`` (of the door) or ``EFFECTS``."""
    subject: str

    def __str__(self) -> str:
        return f"step {self.number}: {self.kind} {self.subject}"


class Fate:
    """What befalls a process at its steps: here, nothing."""

    def before(self, step: Step) -> None:
        """Raise, or wait, before the step has any effect."""

    def cuts(self, step: Step) -> bool:
        """Tell whether only half of a write's bytes arrive."""
        return False

    def after(self, step: Step) -> None:
        """Raise, or wait, after the step had its effect."""


class DiesAt(Fate):
    """Dies before, half-way through or after its n-th step, and does nothing any more."""

    def __init__(self, number: int, moment: Moment, die: Callable[[], None] | None = None) -> None:
        self.number = number
        self.moment = moment
        self.struck: Step | None = None
        """The step that was the last."""
        self._die = die or _crash

    def before(self, step: Step) -> None:
        if self.struck is not None or (self.moment == "before" and step.number == self.number):
            self._strike(step)

    def cuts(self, step: Step) -> bool:
        return self.moment == "half" and step.number == self.number

    def after(self, step: Step) -> None:
        if self.moment != "before" and step.number == self.number:
            self._strike(step)

    def _strike(self, step: Step) -> None:
        self.struck = self.struck or step
        self._die()


class DiskFails(Fate):
    """From the n-th step on, whatever writes is refused; ``relent`` ends it."""

    def __init__(self, number: int, code: int, kinds: tuple[str, ...]) -> None:
        self.number = number
        self.code = code
        self.kinds = kinds
        self.struck: Step | None = None

    def before(self, step: Step) -> None:
        # The step at which it starts may be a write, of which a full disk takes the first half.
        if self._strikes(step) and not (self.cuts(step)):
            self._strike(step)

    def cuts(self, step: Step) -> bool:
        return self._strikes(step) and step.kind == "write" and self.code in (errno.ENOSPC, errno.EDQUOT)

    def after(self, step: Step) -> None:
        if self.cuts(step):
            self._strike(step)

    def _strikes(self, step: Step) -> bool:
        return step.number >= self.number and step.kind in self.kinds

    def _strike(self, step: Step) -> None:
        self.struck = self.struck or step
        raise OSError(self.code, os.strerror(self.code), step.subject)


class Process:
    """What one process has done so far, and what is to befall it."""

    def __init__(self, fate: Fate | None = None) -> None:
        self.fate = fate or Fate()
        self.steps: list[Step] = []
        self.confirmed: list[str] = []
        """Absolute names of the objects that the door has told it stand."""
        self._lock = threading.Lock()

    def next_step(self, kind: str, subject: str) -> Step:
        with self._lock:
            step = Step(number=len(self.steps) + 1, kind=kind, subject=subject)
            self.steps.append(step)
        return step


@dataclass
class WatchedDisk:
    """Whose steps are watched, and what would not survive a power cut."""

    unflushed_names: set[str] = field(default_factory=set)
    """Files and folders whose folder was not flushed since they came to stand in it."""
    unflushed_content: set[int] = field(default_factory=set)
    """Inodes whose bytes were not flushed."""
    _processes: threading.local = field(default_factory=threading.local)
    _sole: Process | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this disk under the storage layer, for as long as the fixture lives."""
        monkeypatch.setattr(storage.filesystem, "Path", _watched_path(self))
        monkeypatch.setattr(storage.local_files, "os", _WatchedOs(self))
        monkeypatch.setattr(storage.filesystem, "put_whole", self._watched(storage.filesystem.put_whole, "put"))
        monkeypatch.setattr(Store, "delete", self._watched(Store.delete, "delete"))
        for name in ("create", "create_from_file"):
            monkeypatch.setattr(Store, name, self._confirmed(getattr(Store, name)))
        for kind in READS:
            monkeypatch.setattr(Store, kind, self._watched(getattr(Store, kind), kind))

    @contextmanager
    def process(self, fate: Fate | None = None, *, alone: bool = True) -> Iterator[Process]:
        """Watch what this thread does as one process; where it is ``alone``, the threads that it starts as well."""
        process = Process(fate)
        self._processes.current = process
        self._sole = process if alone else None
        try:
            yield process
        finally:
            del self._processes.current
            self._sole = None

    @contextmanager
    def step(self, kind: str, subject: str) -> Iterator[bool]:
        """Surround a step; gives whether only half of it may happen."""
        process = self._current()
        if process is None:
            yield False
            return
        step = process.next_step(kind, subject)
        process.fate.before(step)
        yield process.fate.cuts(step)
        process.fate.after(step)

    def cut_power(self, lost: Literal["names", "content"]) -> None:
        """Lose all that was not flushed: names that never reached the disk, or bytes behind names that did."""
        if lost == "names":
            for name in sorted(self.unflushed_names):
                path = Path(name)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        else:
            for name in sorted(self.unflushed_names):
                if Path(name).is_file() and Path(name).stat().st_ino in self.unflushed_content:
                    os.truncate(name, Path(name).stat().st_size // 2)
        self.forget_unflushed()

    def forget_unflushed(self) -> None:
        """Start from a disk on which everything has arrived."""
        self.unflushed_names.clear()
        self.unflushed_content.clear()

    def _current(self) -> Process | None:
        current: Process | None = getattr(self._processes, "current", None)
        return current or self._sole

    def _confirmed(self, method: Callable[..., bool]) -> Callable[..., bool]:
        def confirmed(store: Store, name: str, content: Any) -> bool:
            ours = method(store, name, content)
            process = self._current()
            if process is not None:
                process.confirmed.append(store.uri_of(name))
            return ours

        return confirmed

    def _watched(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def watched(store: Store, name: str = "", *rest: Any) -> Any:
            with self.step(kind, name):
                return method(store, name, *rest)

        return watched


def steps_of(disk: WatchedDisk, command: Callable[[], object]) -> list[Step]:
    """Return the steps that a command takes when nothing happens to it."""
    with disk.process() as process:
        command()
    return process.steps


def moments_of(step: Step) -> tuple[Moment, ...]:
    """Return when a process can die at a step so that it makes a difference."""
    if step.kind in READS:
        return ("before",)
    return ("before", "half", "after") if step.kind == "write" else ("before", "after")


def _crash() -> None:
    raise Crash


def _watched_path(disk: WatchedDisk) -> type[PosixPath]:
    class WatchedPath(PosixPath):
        """A path whose effects are steps."""

        def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            if exist_ok and self.is_dir():
                return
            if parents:
                self.parent.mkdir(mode, parents=True, exist_ok=True)
            with disk.step("mkdir", str(self)):
                super().mkdir(mode, exist_ok=exist_ok)
                disk.unflushed_names.add(str(self))

        def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode != "xb":
                return super().open(mode, *args, **options)
            with ExitStack() as if_dead:
                with disk.step("create file", str(self)):
                    file = if_dead.enter_context(_WatchedFile(disk, str(self)))
                    disk.unflushed_names.add(str(self))
                if_dead.pop_all()
            return file

        def hardlink_to(self, target: Any) -> None:
            with disk.step("link", str(self)):
                super().hardlink_to(target)
                disk.unflushed_names.add(str(self))

        def unlink(self, missing_ok: bool = False) -> None:
            with disk.step("unlink", str(self)):
                super().unlink(missing_ok)
                disk.unflushed_names.discard(str(self))

    return WatchedPath


class _WatchedFile(io.FileIO):
    """A new file whose bytes arrive at once, by half, or not at all."""

    def __init__(self, disk: WatchedDisk, path: str) -> None:
        super().__init__(path, "xb")
        self._disk = disk

    def write(self, data: Any) -> int:
        with self._disk.step("write", str(self.name)) as cut:
            self._disk.unflushed_content.add(os.fstat(self.fileno()).st_ino)
            content = bytes(data)
            super().write(content[: len(content) // 2] if cut else content)
        return len(content)


class _WatchedOs:
    """The module ``os``, with its effects as steps."""

    def __init__(self, disk: WatchedDisk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        kind = "flush folder" if Path(name).is_dir() else "fsync"
        with self._disk.step(kind, name):
            if kind == "fsync":
                self._disk.unflushed_content.discard(os.fstat(descriptor).st_ino)
            else:
                for entry in [entry for entry in self._disk.unflushed_names if str(Path(entry).parent) == name]:
                    self._disk.unflushed_names.discard(entry)
