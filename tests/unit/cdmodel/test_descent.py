from __future__ import annotations

import pytest
import torch
from torch import nn

from cdmodel.descent import Descent, Keeper, Measured, descend, one_cycle, pick_dtype, torch_seed


class _Memory(dict):
    """Checkpoints in memory; remembers how often it was written to."""

    def read(self, name):
        return self.get(name)

    def write(self, name, content):
        self[name] = content


class _Killed(BaseException):
    pass


def _network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def _descend(network, memory, *, steps=20, killed_at=None, every_seconds=0.0, name="net"):
    """Teach it to tell which half of a vector is larger."""

    def measure(step):
        if step == killed_at:
            raise _Killed
        inputs = torch.randn(16, 6)
        truth = (inputs[:, :3].sum(1) > inputs[:, 3:].sum(1)).long()
        logits = network(inputs)
        return Measured(
            loss=nn.functional.cross_entropy(logits, truth), accuracy=(logits.argmax(1) == truth).float().mean()
        )

    descent = Descent(
        stage="student",
        name=name,
        seed=1,
        stream=2,
        steps=steps,
        learning_rate=0.01,
        precision="float32",
        measure=measure,
        name_videos=lambda step: [],
    )
    descend(
        network,
        list(network.parameters()),
        descent,
        lambda progress: None,
        Keeper(checkpoints=memory, every_seconds=every_seconds),
    )


def _state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("killed_at", [2, 5, 20])
def test_a_killed_descent_ends_where_one_that_was_not_killed_does_bit_for_bit(killed_at):
    whole = _network()
    _descend(whole, _Memory())
    memory = _Memory()
    with pytest.raises(_Killed):
        _descend(_network(), memory, killed_at=killed_at)
    torch.manual_seed(99)
    resumed = _network()
    with torch.no_grad():
        resumed[0].weight.zero_()
    _descend(resumed, memory)
    assert _equal(_state(whole), _state(resumed))


def test_a_finished_descent_is_not_walked_again():
    memory = _Memory()
    network = _network()
    _descend(network, memory)
    again = _network()
    _descend(again, memory, killed_at=1)
    assert _equal(_state(network), _state(again))
    assert not again.training


def test_between_checkpoints_nothing_is_written():
    memory = _Memory()
    with pytest.raises(_Killed):
        _descend(_network(), memory, killed_at=15, every_seconds=3600)
    assert memory == {}


def test_networks_of_other_names_do_not_share_checkpoints():
    memory = _Memory()
    _descend(_network(), memory, name="one")
    other = _network()
    before = _state(other)
    _descend(other, memory, name="other")
    assert not _equal(before, _state(other))


@pytest.mark.parametrize("steps", [2, 7, 40, 1500])
def test_the_cycle_is_that_of_pytorch(steps):
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.004)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.004, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        share, momentum = one_cycle(step, steps)
        assert 0.004 * share == pytest.approx(schedule.get_last_lr()[0], rel=1e-6, abs=1e-12)
        assert momentum == pytest.approx(optimiser.param_groups[0]["betas"][0], rel=1e-6)
        optimiser.step()
        if step < steps - 1:
            schedule.step()


def test_every_step_and_stream_has_randomness_of_its_own():
    seeds = {torch_seed(seed, stream, step) for seed in range(3) for stream in range(4) for step in range(5)}
    assert len(seeds) == 60


def test_precision_can_be_forced():
    cpu = torch.device("cpu")
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
