"""Several processes on one store, of which exactly one takes a step at a time, in an order that the test gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

from watched_disk import Fate, Step, WatchedDisk

PATIENCE_SECONDS = 60.0


class Stalled(AssertionError):
    """A process neither took its step nor ended."""


class _Turns(Fate):
    """Stops before every step that counts, until it is this process's turn."""

    def __init__(self, counts: Callable[[Step], bool], fate: Fate) -> None:
        self.has_ended = False
        self._fate = fate
        self._counts = counts
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)

    def before(self, step: Step) -> None:
        if self._counts(step):
            self.pause()
        self._fate.before(step)

    def cuts(self, step: Step) -> bool:
        return self._fate.cuts(step)

    def after(self, step: Step) -> None:
        self._fate.after(step)

    def pause(self) -> None:
        """Called by the process: wait for its turn."""
        self._stopped.release()
        if not self._go.acquire(timeout=PATIENCE_SECONDS):
            raise Stalled("nobody gave this process its turn")

    def end(self) -> None:
        """Called by the process, last."""
        self.has_ended = True
        self._stopped.release()

    def advance(self) -> None:
        """Called by the test: let the process go on to its next step that counts, or to its end."""
        self._go.release()
        self.wait()

    def wait(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE_SECONDS):
            raise Stalled("a process neither took its step nor ended")


def interleave(
    disk: WatchedDisk,
    commands: Sequence[Callable[[], object]],
    order: Iterable[int],
    *,
    counts: Callable[[Step], bool],
    between: Callable[[], object] = lambda: None,
    fates: Sequence[Fate] = (),
) -> list[object]:
    """Run commands as processes of their own, one step at a time, and return what each returned or raised.

    ``order`` names the process that goes on next; when it is exhausted, the rest run to their ends, the first one first.
    ``counts`` tells which steps are points of change-over; ``between`` is called while all stand still; ``fates`` are
    what else befalls each.
    """
    turns = [_Turns(counts, fate) for _, fate in zip_longest(commands, fates, fillvalue=Fate())]
    results: list[object] = [None] * len(commands)

    def run(number: int) -> None:
        with disk.process(turns[number], alone=False):
            try:
                turns[number].pause()
                results[number] = commands[number]()
            except BaseException as error:  # noqa: BLE001 - it is the test's to judge
                results[number] = error
        turns[number].end()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(commands))]
    ended = [False] * len(commands)
    for number, thread in enumerate(threads):
        thread.start()
        turns[number].wait()

    def advance(number: int) -> None:
        if not ended[number]:
            turns[number].advance()
            ended[number] = turns[number].has_ended
            between()

    for number in order:
        advance(number)
    for number, thread in enumerate(threads):
        while not ended[number]:
            advance(number)
        thread.join()
    return results
