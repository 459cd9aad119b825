"""Latency is measured in inference mode, in turn, at the batch and threads that it states, and leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from trainables.errors import InputError
from trainables.hardware.latency import (
    Comparison,
    Latency,
    compare,
    compare_compiled,
    measure,
    measure_calls,
    measure_gpu_calls,
)

SHAPE = (1, 8, 8)


class Recorder(nn.Module):
    """Writes down under which conditions it is run; copies write into the same list."""

    def __init__(self, name: str = "network", seen: list[tuple[object, ...]] | None = None) -> None:
        super().__init__()
        self.name = name
        self.seen = [] if seen is None else seen
        self.layer = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def __deepcopy__(self, memo: dict[int, object]) -> "Recorder":
        twin = Recorder(self.name, self.seen)
        twin.load_state_dict(copy.deepcopy(self.state_dict(), memo))
        return twin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        conditions = (self.training, torch.is_inference_mode_enabled(), tuple(images.shape), torch.get_num_threads())
        self.seen.append((self.name, *conditions))
        result: torch.Tensor = self.norm(self.layer(images)).mean((2, 3))
        return result


def latency(median_ms: float, iqr_ms: float = 0.0) -> Latency:
    return Latency(median_ms=median_ms, iqr_ms=iqr_ms, num_threads=1, batch_size=1)


def test_runs_in_evaluation_and_inference_mode_at_the_stated_batch_and_threads() -> None:
    network = Recorder()
    threads = torch.get_num_threads()
    measured = measure(network, SHAPE, batch_size=3, num_threads=threads + 1, min_seconds=0.002)
    assert set(network.seen) == {("network", False, True, (3, *SHAPE), threads + 1)}
    assert (measured.batch_size, measured.num_threads) == (3, threads + 1)
    assert measured.median_ms > 0
    assert measured.iqr_ms >= 0


def test_leaves_network_and_threads_as_they_were() -> None:
    network = Recorder().train()
    state, threads = copy.deepcopy(network.state_dict()), torch.get_num_threads()
    measure(network, SHAPE, batch_size=2, num_threads=threads + 1, min_seconds=0.002)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.get_num_threads() == threads


def test_networks_take_turns() -> None:
    seen: list[tuple[object, ...]] = []
    compare(Recorder("dense", seen), Recorder("pruned", seen), SHAPE, batch_size=1, num_threads=1, min_seconds=0.002)
    names = [entry[0] for entry in seen]
    turns = [name for name, before in zip(names, [None, *names], strict=False) if name != before]
    assert turns == ["dense", "pruned"] * 2


def test_a_call_that_does_more_takes_longer() -> None:
    matrix = torch.ones(64, 64)

    def many() -> None:
        for _ in range(200):
            matrix @ matrix

    few, more = measure_calls([lambda: matrix @ matrix, many], batch_size=1, num_threads=1, min_seconds=0.01)
    assert more.median_ms > 5 * few.median_ms


def test_an_accelerator_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    measure_calls([lambda: None], batch_size=1, num_threads=1, min_seconds=0.001)
    assert waits


def test_speedup_and_whether_it_is_more_than_noise() -> None:
    assert Comparison(dense=latency(6.0), pruned=latency(1.5)).speedup == 4.0
    assert Comparison(dense=latency(6.0, 1.0), pruned=latency(1.5, 1.0)).is_faster
    assert not Comparison(dense=latency(6.0, 1.0), pruned=latency(5.5, 1.0)).is_faster
    assert not Comparison(dense=latency(1.0), pruned=latency(1.0)).is_faster
    assert latency(10.0, 1.1).is_noisy
    assert not latency(10.0, 0.9).is_noisy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size of a latency is 0"),
        ({"num_threads": 0}, "num_threads of a latency is 0"),
        ({"min_seconds": 0.0}, "min_seconds of a latency is 0.0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: dict[str, float], message: str) -> None:
    given = {"batch_size": 1, "num_threads": 1, "min_seconds": 0.01} | arguments
    with pytest.raises(InputError, match=message):
        measure(Recorder(), SHAPE, **given)  # type: ignore[arg-type]


def test_draws_nothing_from_the_global_generator() -> None:
    network = nn.Linear(4, 2)
    drawn = torch.random.get_rng_state()
    measure(network, (1, 2, 4), batch_size=2, num_threads=1, min_seconds=0.002)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_throughput_is_images_by_the_median() -> None:
    measured = Latency(median_ms=2.0, iqr_ms=0.0, num_threads=1, batch_size=64)
    assert measured.images_per_second == 32_000
    assert measured.to_dict()["images_per_second"] == 32_000


class FakeEvents:
    """A GPU's clock that moves by a millisecond a call; notes what was asked of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []

    def event(self, *, enable_timing: bool) -> "FakeEvents.Event":
        assert enable_timing
        return FakeEvents.Event(self)

    def call(self) -> None:
        self.now += 1.0
        self.said.append("call")

    class Event:
        def __init__(self, clock: "FakeEvents") -> None:
            self.clock, self.at = clock, 0.0

        def record(self) -> None:
            self.at = self.clock.now
            self.clock.said.append("record")

        def synchronize(self) -> None:
            self.clock.said.append("wait")

        def elapsed_time(self, end: "FakeEvents.Event") -> float:
            return end.at - self.at


def test_on_a_gpu_times_are_between_events_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeEvents()
    monkeypatch.setattr(torch.cuda, "Event", clock.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: clock.said.append("wait for all"))
    first, second = measure_gpu_calls([clock.call, clock.call], batch_size=8, num_threads=1, min_seconds=0.1)
    assert (first.median_ms, first.iqr_ms, first.images_per_second) == (pytest.approx(1.0), pytest.approx(0.0), 8000)
    assert second == first
    turn = clock.said.index("wait for all")
    assert clock.said[:turn] == ["call"] * 10
    assert clock.said[turn + 1 : turn + 5] == ["record", "call", "record", "wait"]
    assert clock.said.count("call") == 4 * (10 + 50)  # in turn, twice each, until half of the time has passed
    assert clock.said.count("wait for all") == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_card_events_agree_with_a_clock_that_waits() -> None:
    network = nn.Conv2d(64, 64, 3).cuda()
    images = torch.rand(64, 64, 64, 64, device="cuda")

    def call_and_wait() -> None:
        network(images)
        torch.cuda.synchronize()

    by_events = measure(network, (64, 64, 64), batch_size=64, num_threads=1, min_seconds=0.2).median_ms
    (by_clock,) = measure_calls([call_and_wait], batch_size=64, num_threads=1, min_seconds=0.2)
    assert 0 < by_events < 1.1 * by_clock.median_ms
    assert by_clock.median_ms < 2 * by_events + 0.2


def test_compiling_is_not_timed_and_its_failure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(network: nn.Module) -> nn.Module:
        calls.append("compiled")
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    network = Recorder()
    compare_compiled(network, network, SHAPE, batch_size=2, num_threads=1, min_seconds=0.002)
    assert calls == ["compiled", "compiled"]
    assert {seen[3] for seen in network.seen} == {(2, *SHAPE)}

    def broken(network: nn.Module) -> nn.Module:
        raise RuntimeError("no g++ here\nlook at the log")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"cannot be compiled \(RuntimeError: no g\+\+ here\); .* --latency$"):
        compare_compiled(network, network, SHAPE, batch_size=2, num_threads=1)
