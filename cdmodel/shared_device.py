"""One device for the models of several videos: what they ask at about the same time is answered in one batch.

Nothing waits for a batch to fill: while the device is busy questions queue, and its next batch takes all those to one model. So
a device that keeps up sees the batches that videos ask, and one that does not sees larger ones, as many times larger as
there are videos at once (adaptive batching: Crankshaw et al., Clipper, NSDI 2017). N clips.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

from cdmodel.clips import Pixels
from cdmodel.device_meter import Metered

Answers = TypeVar("Answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel(Generic[Answers]):
    """A model that several videos ask."""

    name: str
    score: Callable[[Pixels], Metered[Answers]]
    join: Callable[[Sequence[Pixels]], Pixels]
    """Puts clips behind one another."""
    rows: Callable[[Answers, slice], Answers]
    """Returns the answers to some of the clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    model: AskedModel[Any]
    pixels_NTCHW: Pixels
    answer: Future[Metered[Any]]


class SharedDevice:
    """Answers the questions of several threads, one batch after another. Made by ``sharing_device``."""

    def __init__(self) -> None:
        self._waiting: deque[_Question] = deque()
        self._changed = Condition()
        self._is_closed = False

    def ask(self, model: AskedModel[Answers], pixels_NTCHW: Pixels) -> Metered[Answers]:
        """Return the answers to these clips, and their share, by clips, of what their batch took. Blocks.

        Raises: what ``model.score`` raises, to everybody whose clips were in that batch.
        """
        question = _Question(model=model, pixels_NTCHW=pixels_NTCHW, answer=Future())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the device is not shared any more")
            self._waiting.append(question)
            self._changed.notify()
        return question.answer.result()

    def close(self) -> None:
        """Answer what was asked, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def serve(self) -> None:
        """Answer until closed."""
        while batch := self._next_batch():
            _answer(batch)

    def _next_batch(self) -> list[_Question]:
        """Return all that is asked of the model that was asked first, in order; nothing once closed."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if not self._waiting:
                return []
            name = self._waiting[0].model.name
            batch = [question for question in self._waiting if question.model.name == name]
            self._waiting = deque(question for question in self._waiting if question.model.name != name)
            return batch


@contextmanager
def sharing_device() -> Iterator[SharedDevice]:
    """Serve a device from a thread of its own; stages are clocked where the caller listens."""
    device = SharedDevice()
    server = Thread(target=copy_context().run, args=(device.serve,), name="shared device", daemon=True)
    server.start()
    try:
        yield device
    finally:
        device.close()
        server.join()


def _answer(batch: list[_Question]) -> None:
    try:
        model, pixels = batch[0].model, [question.pixels_NTCHW for question in batch]
        found = model.score(pixels[0] if len(pixels) == 1 else model.join(pixels))
    except BaseException as error:  # noqa: BLE001 - whoever asked has to know, and the device must go on
        for question in batch:
            question.answer.set_exception(error)
        return
    start, all_clips = 0, sum(map(len, pixels))
    for question in batch:
        clips = len(question.pixels_NTCHW)
        share = clips / all_clips
        part = Metered(
            answers=model.rows(found.answers, slice(start, start + clips)),
            seconds=found.seconds * share,
            gpu_seconds=found.gpu_seconds * share,
        )
        start += clips
        question.answer.set_result(part)
