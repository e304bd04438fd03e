"""Questions of several videos to one device: joined while it is busy, answered to whom they belong, paid by the clip."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from cdmodel.device_meter import Metered
from cdmodel.shared_device import AskedModel, SharedDevice, sharing_device
from cdmodel.stage_clock import clocked, stage


class _Network:
    """Answers each clip with its first pixel; is busy with its first batch until told to go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_busy, self.goes_on = Event(), Event()

    def score(self, pixels_NTCHW: np.ndarray) -> Metered[np.ndarray]:
        with stage("teacher"):
            self.batches.append(pixels_NTCHW[:, 0, 0, 0, 0].tolist())
            self.is_busy.set()
            assert self.goes_on.wait(30)
        return Metered(answers=pixels_NTCHW[:, 0, 0, 0, 0].copy(), seconds=float(len(pixels_NTCHW)), gpu_seconds=0.5)


def _model(network: _Network, name: str = "teacher") -> AskedModel[np.ndarray]:
    return AskedModel(name=name, score=network.score, join=np.concatenate, rows=np.ndarray.__getitem__)


def _clips(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1, 1)


def _wait_until_waiting(device: SharedDevice, questions: int) -> None:
    for _ in range(3000):
        with device._changed:
            if len(device._waiting) == questions:
                return
        Event().wait(0.01)
    raise AssertionError(f"{questions} questions never waited")


def _ask_all(
    device: SharedDevice, network: _Network, threads: ThreadPoolExecutor, asked: Sequence[tuple[AskedModel, np.ndarray]]
) -> list[Metered[np.ndarray]]:
    """Ask one question, and the others in order while the device is busy with it."""
    futures = [threads.submit(device.ask, *asked[0])]
    assert network.is_busy.wait(30)
    for waiting, question in enumerate(asked[1:], start=1):
        futures.append(threads.submit(device.ask, *question))
        _wait_until_waiting(device, waiting)
    network.goes_on.set()
    return [future.result(30) for future in futures]


def test_what_is_asked_while_the_device_is_busy_is_one_batch_and_each_gets_its_own_answers_and_share() -> None:
    network = _Network()
    with sharing_device() as device, ThreadPoolExecutor(4) as threads:
        asked = [(_model(network), _clips(*values)) for values in ((1, 2), (3,), (4, 5, 6), (7, 8))]
        found = _ask_all(device, network, threads, asked)
    assert network.batches == [[1, 2], [3, 4, 5, 6, 7, 8]]
    assert [metered.answers.tolist() for metered in found] == [[1, 2], [3], [4, 5, 6], [7, 8]]
    assert [metered.seconds for metered in found] == pytest.approx([2, 1, 3, 2])
    assert sum(metered.gpu_seconds for metered in found[1:]) == pytest.approx(0.5)


def test_models_take_turns_by_who_was_asked_first() -> None:
    network = _Network()
    student, teacher = _model(network, "student"), _model(network)
    asked = [(student, _clips(1)), (teacher, _clips(2)), (student, _clips(3)), (teacher, _clips(4))]
    with sharing_device() as device, ThreadPoolExecutor(4) as threads:
        _ask_all(device, network, threads, asked)
    assert network.batches == [[1], [2, 4], [3]]


def test_an_error_reaches_all_of_its_batch_and_the_device_goes_on() -> None:
    def fail(_: np.ndarray) -> Metered[np.ndarray]:
        raise MemoryError("none left")

    network = _Network()
    network.goes_on.set()
    broken = AskedModel(name="broken", score=fail, join=np.concatenate, rows=np.ndarray.__getitem__)
    with sharing_device() as device:
        with pytest.raises(MemoryError, match="none left"):
            device.ask(broken, _clips(1))
        assert device.ask(_model(network), _clips(9)).answers.tolist() == [9]
    with pytest.raises(RuntimeError, match="not shared any more"):
        device.ask(_model(network), _clips(1))


def test_whoever_shares_the_device_hears_how_long_its_stages_took() -> None:
    network = _Network()
    network.goes_on.set()
    with clocked() as clock, sharing_device() as device:
        device.ask(_model(network), _clips(1))
    assert clock.seconds.keys() == {"teacher"}
