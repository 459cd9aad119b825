"""Which channels go: sizes that are met, floors, rounding, nesting, ties, and a greedy choice written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.networks.vggs import vgg
from trainables.pruning.channels import ChannelMap, Kept
from trainables.pruning.cost import SizeModel, macs_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.possible_sizes import (
    floor_fraction,
    nearest_of_missed,
    nearest_size,
    possible_sizes,
    smallest_target,
)
from trainables.pruning.schedule import size_at
from trainables.pruning.selection import (
    TOLERANCE,
    SelectionError,
    channel_multiple,
    check_scores,
    least_channels,
    possible_counts,
    select,
)
from trainables.pruning_config import Pruning

INPUT_SHAPE = (3, 16, 16)


class Case:
    """A network's groups and sizes, and choices made on them."""

    def __init__(self, network: nn.Module) -> None:
        self.channel_map: ChannelMap = find_groups(network, INPUT_SHAPE)
        self.sizes: SizeModel = macs_model(network, self.channel_map, INPUT_SHAPE)
        self.everything = self.channel_map.everything()
        self.full = self.macs(self.everything)

    def macs(self, kept: Kept) -> float:
        return self.sizes.total(np.array([len(kept[group.name]) for group in self.channel_map.groups]))

    def scores(self, kept: Kept, seed: int) -> dict[str, torch.Tensor]:
        """As real ones: far apart within a group, and further between groups."""
        generator = torch.Generator().manual_seed(seed)
        scale_G = 100 ** torch.randn(len(kept), generator=generator, dtype=torch.float64)
        return {
            name: scale * torch.rand(len(channels), generator=generator, dtype=torch.float64) ** 3
            for scale, (name, channels) in zip(scale_G, kept.items(), strict=True)
        }

    def select(
        self,
        fraction: float,
        *,
        seed: int = 0,
        final: float | None = None,
        kept: Kept | None = None,
        scores: dict[str, torch.Tensor] | None = None,
        protected: Kept | None = None,
        pruning: Pruning | None = None,
    ) -> dict[str, torch.Tensor]:
        kept = self.everything if kept is None else kept
        return select(
            kept,
            self.scores(kept, seed) if scores is None else scores,
            target=fraction * self.full,
            final=(fraction if final is None else final) * self.full,
            sizes=self.sizes,
            channel_map=self.channel_map,
            pruning=pruning or Pruning(),
            protected=protected,
        )


def small_vgg(*plan: int | str) -> Case:
    return Case(vgg(plan=plan, num_classes=4, in_channels=3, width=1.0))


@pytest.fixture(scope="module")
def case() -> Case:
    return small_vgg(16, 16, "pool", 32, 32)


@pytest.fixture(scope="module")
def tiny() -> Case:
    return small_vgg(8, "pool", 16, 16)


@pytest.fixture(scope="module")
def uneven() -> Case:
    return small_vgg(4, 20, "pool", 32, 16)  # the first group has fewer than eight, the second no multiple of eight


targets = st.floats(0.02, 0.9)
seeds = st.integers(0, 2**31)


def naive_greedy(case: Case, scores: dict[str, torch.Tensor], target: float, *, per_mac: bool) -> dict[str, set[int]]:
    kept = {name: set(channels.tolist()) for name, channels in case.everything.items()}

    def macs() -> float:
        return case.sizes.total(np.array([len(kept[group.name]) for group in case.channel_map.groups]))

    while macs() > target:
        offers = []
        for group in case.channel_map.groups:
            if len(kept[group.name]) == 1:
                continue
            channel = min(kept[group.name], key=lambda c, name=group.name: (float(scores[name][c]), c))
            before = macs()
            kept[group.name].remove(channel)
            saved = before - macs()
            kept[group.name].add(channel)
            if before - saved < target * (1 - TOLERANCE):
                continue
            saliency = float(scores[group.name][channel])
            offers.append((saliency / saved if per_mac else saliency, group.name, channel))
        if not offers:
            break
        _, name, channel = min(offers, key=lambda offer: offer[0])
        kept[name].remove(channel)
    return kept


@settings(max_examples=15, deadline=None)
@example(target=0.18359375, seed=0, cost="none")
@given(target=st.floats(0.15, 0.9), seed=seeds, cost=st.sampled_from(["macs", "none"]))
def test_selection_is_what_a_plain_loop_chooses(case, target: float, seed: int, cost) -> None:
    scores = case.scores(case.everything, seed)
    wanted = naive_greedy(case, scores, target * case.full, per_mac=cost == "macs")
    left = {name: torch.tensor(sorted(channels)) for name, channels in wanted.items()}
    assume(case.macs(left) <= target * case.full * (1 + TOLERANCE))  # where it gets stuck above, channels are exchanged
    kept = case.select(target, scores=scores, pruning=Pruning(cost=cost))
    assert {name: set(channels.tolist()) for name, channels in kept.items()} == wanted


@settings(max_examples=40, deadline=None)
@given(target=targets, seed=seeds)
def test_the_size_is_met_in_one_event(case, target: float, seed: int) -> None:
    kept = case.select(target, seed=seed)
    assert case.macs(kept) == pytest.approx(target * case.full, rel=TOLERANCE)
    for name, channels in kept.items():
        assert channels.tolist() == sorted(set(channels.tolist()) & set(case.everything[name].tolist()))
        assert len(channels) >= 1


@settings(max_examples=25, deadline=None)
@given(target=targets, seed=seeds, events=st.integers(2, 12))
def test_the_size_is_met_in_many_events(case, target: float, seed: int, events: int) -> None:
    kept = case.everything
    for event in range(1, events + 1):
        now = target + (1 - target) * (1 - event / events) ** 3
        if case.macs(kept) > now * case.full:
            before = kept
            kept = case.select(now, seed=seed + event, final=target, kept=kept)
            assert all(set(kept[name].tolist()) <= set(before[name].tolist()) for name in kept)
            assert case.macs(kept) >= target * case.full * (1 - TOLERANCE)
            assert case.macs(kept) <= now * case.full * (1 + TOLERANCE)
    assert case.macs(kept) == pytest.approx(target * case.full, rel=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(target=st.floats(0.06, 0.9), seed=seeds, events=st.sampled_from([1, 4, 10]))
def test_sizes_that_few_choices_meet_are_found_where_there_are_some(tiny, target, seed, events) -> None:
    choices = np.stack(np.meshgrid(np.arange(1, 9), np.arange(1, 17), np.arange(1, 17)), axis=-1).reshape(-1, 3)
    off = np.abs(tiny.sizes.totals(choices) / (target * tiny.full) - 1)
    if (off <= TOLERANCE).sum() < 4:
        return  # a single one of two thousand may be missed
    kept = tiny.everything
    for event in range(1, events + 1):
        now = target + (1 - target) * (1 - event / events) ** 3
        if tiny.macs(kept) > now * tiny.full:
            kept = tiny.select(now, seed=seed + event, final=target, kept=kept)
    assert tiny.macs(kept) == pytest.approx(target * tiny.full, rel=TOLERANCE)


def test_a_group_that_is_dear_gives_channels_where_the_others_cannot(networks) -> None:
    """All else at its floor, the stem's three channels cost more than the size allows, and two less than it asks."""
    case = Case(networks("resnet18-imagenet")[0])
    counts = (3, 3, 3, 8, 7, 7, 13, 12, 11, 10, 19, 3)
    kept = {name: channels[:n] for n, (name, channels) in zip(counts, case.everything.items(), strict=True)}
    scores = {name: torch.ones(len(channels)) for name, channels in kept.items()}
    scores["conv1"] *= 1e6
    found = case.select(0.3, kept=kept, scores=scores)
    assert case.macs(found) == pytest.approx(0.3 * case.full, rel=TOLERANCE)
    assert len(found["conv1"]) == 2


@settings(max_examples=20, deadline=None)
@given(target=st.floats(0.21, 0.9), seed=seeds)
def test_rounded_widths_are_multiples(uneven, target: float, seed: int) -> None:
    kept = uneven.select(target, seed=seed, pruning=Pruning(round_to=8))
    widths = [len(channels) for channels in kept.values()]
    assert widths[0] == 4
    assert all(width % 8 == 0 and width >= 8 for width in widths[1:])
    assert uneven.macs(kept) <= target * uneven.full


@settings(max_examples=20, deadline=None)
@given(target=st.floats(0.25, 0.9), seed=seeds, floor=st.integers(1, 8))
def test_no_group_falls_below_its_floor(case, target: float, seed: int, floor: int) -> None:
    kept = case.select(target, seed=seed, pruning=Pruning(min_channels=floor))
    assert min(len(channels) for channels in kept.values()) >= floor


def test_a_floor_above_a_groups_width_leaves_the_group(tiny) -> None:
    kept = tiny.select(0.7, pruning=Pruning(min_channels=12))
    assert len(kept["features.0"]) == 8


def test_a_pattern_gives_some_groups_a_floor_of_their_own(case) -> None:
    pruning = Pruning(min_channels=2, floors={"features.0": 9, "features.7": 20, "no.such": 30})
    assert [least_channels(group, pruning) for group in case.channel_map.groups] == [9, 2, 20, 2]
    kept = case.select(0.2, pruning=pruning)
    assert len(kept["features.0"]) >= 9
    assert len(kept["features.7"]) >= 20


def test_floors_and_multiples_count_the_outputs_of_tied_blocks(networks) -> None:
    channel_map = networks("modern")[1]  # blocks of two, then single channels
    assert [group.block for group in channel_map.groups] == [2, 1, 1]
    assert [least_channels(group, Pruning(min_channels=5)) for group in channel_map.groups] == [3, 5, 5]
    assert [channel_multiple(group, Pruning(round_to=4)) for group in channel_map.groups] == [2, 4, 4]
    case = Case(networks("modern")[0])
    kept = case.select(0.5, pruning=Pruning(round_to=4))
    assert [len(channels) % multiple for channels, multiple in zip(kept.values(), (2, 4, 4), strict=True)] == [0, 0, 0]
    assert case.macs(kept) <= 0.5 * case.full


def test_what_may_be_left_of_a_group_are_multiples_from_its_floor_on(case) -> None:
    group = case.channel_map.groups[2]
    name, full = group.name, group.num_channels
    assert [*possible_counts(group, Pruning())] == [*range(1, full + 1)]
    assert [*possible_counts(group, Pruning(round_to=8, floors={name: 12}))] == [*range(16, full + 1, 8)]
    assert [*possible_counts(group, Pruning(round_to=full - 1))] == [full - 1]
    assert [*possible_counts(group, Pruning(round_to=8, floors={name: full - 1}))] == [full]
    assert [*possible_counts(group, Pruning(round_to=full - 1, floors={name: full}))] == [full]


@settings(max_examples=15, deadline=None)
@given(targets=st.tuples(targets, targets).filter(lambda pair: abs(pair[0] - pair[1]) > 0.05), seed=seeds)
def test_protected_channels_stay(case, targets: tuple[float, float], seed: int) -> None:
    smaller = case.select(min(targets), seed=seed)
    larger = case.select(max(targets), seed=seed + 1, protected=smaller)
    assert all(set(smaller[name].tolist()) <= set(larger[name].tolist()) for name in smaller)
    assert case.macs(larger) == pytest.approx(max(targets) * case.full, rel=TOLERANCE)


def test_a_level_on_its_way_is_not_held_to_its_final_size_by_what_is_protected(case) -> None:
    smaller = case.select(0.6, seed=1, final=0.1)
    larger = case.select(0.8, seed=2, final=0.3, protected=smaller)  # 0.3 is out of reach as yet
    assert case.macs(larger) == pytest.approx(0.8 * case.full, rel=TOLERANCE)


def test_a_size_that_only_protected_channels_are_in_the_way_of_is_told_apart(tiny) -> None:
    smaller = tiny.select(0.5, seed=0)  # keeps all channels but the last group's, where steps are large
    assert tiny.macs(tiny.select(0.75, seed=1)) == pytest.approx(0.75 * tiny.full, rel=TOLERANCE)
    with pytest.raises(SelectionError, match=r"as close as whole channels come to 0\.2074 M MACs$") as caught:
        tiny.select(0.75, seed=1, protected=smaller)
    assert caught.value.only_protected
    with pytest.raises(
        SelectionError, match=r"; ask for a larger macs_kept, or relax pruning\.min_channels,"
    ) as caught:
        tiny.select(0.1, protected=smaller, pruning=Pruning(min_channels=8))
    assert not caught.value.only_protected


def test_ties_go_by_group_and_index(case) -> None:
    equal = {name: torch.ones(len(channels)) for name, channels in case.everything.items()}
    first, second = case.select(0.3, scores=equal), case.select(0.3, scores=equal)
    for name, channels in first.items():
        assert torch.equal(channels, second[name])
        assert channels.tolist() == case.everything[name].tolist()[-len(channels) :]


def test_a_size_below_the_floor_is_refused(case) -> None:
    with pytest.raises(SelectionError, match="as close as whole channels come to") as caught:
        case.select(0.05, pruning=Pruning(min_channels=8))
    assert caught.value.group is None
    with pytest.raises(SelectionError, match=r"or relax .* pruning\.round_to or pruning\.keep$"):
        case.select(0.05, pruning=replace(Pruning(), round_to=16))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, float("nan")], "not finite"),
        ([1.0, float("inf")], "not finite"),
        ([float("nan")], "not finite"),
        ([0.0, 0.0], r"zero for every channel, .* or has training killed it\? Then lower the learning rate"),
    ],
)
def test_saliency_that_says_nothing_is_refused_with_its_group(bad: list[float], message: str) -> None:
    with pytest.raises(SelectionError, match=message) as caught:
        check_scores({"first": torch.ones(3), "second": torch.tensor(bad)})
    assert caught.value.group == "second"


def test_saliency_that_tells_channels_apart_is_taken() -> None:
    check_scores({"one dead channel": torch.tensor([0.0, 1e-30]), "nothing to choose": torch.zeros(1)})


@pytest.mark.parametrize(
    "pruning", [Pruning(), Pruning(min_channels=3), Pruning(round_to=4), Pruning(round_to=4, min_channels=5)]
)
def test_the_smallest_target_is_the_smallest_that_is_met(pruning):
    case = small_vgg(8, "M", 10, 12)
    smallest = smallest_target(case.sizes, case.channel_map, pruning)
    kept = case.select(smallest * 1.001 / case.full, pruning=pruning)
    assert case.macs(kept) == pytest.approx(smallest * (1 + TOLERANCE))
    assert floor_fraction(case.sizes, case.channel_map, pruning) == pytest.approx(case.macs(kept) / case.full)
    with pytest.raises(SelectionError, match="as close as whole channels come"):
        case.select(smallest * 0.97 / case.full, pruning=pruning)


def few(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))


@pytest.mark.parametrize("tenths", range(2, 10))
def test_sizes_that_few_channels_meet_are_those_that_are_chosen(tenths: int) -> None:
    case, pruning = Case(few(2, 4, 6)), Pruning(min_channels=1)
    target = tenths / 10 * case.full
    possible = possible_sizes(case.sizes, case.channel_map, pruning)
    assert possible is not None
    if nearest_of_missed(possible, target) is None:
        assert nearest_size(possible, target) == pytest.approx(target, rel=TOLERANCE)
        assert case.macs(case.select(tenths / 10, pruning=pruning)) == pytest.approx(target, rel=TOLERANCE)
    else:
        with pytest.raises(SelectionError):
            case.select(tenths / 10, pruning=pruning)


@pytest.mark.parametrize(("target", "nearest"), [(0.0, 2.0), (3.4, 2.0), (3.6, 5.0), (5.0, 5.0), (90.0, 9.0)])
def test_the_nearest_size_lies_on_either_side(target: float, nearest: float) -> None:
    assert nearest_size(np.array([2.0, 5.0, 9.0]), target) == nearest


def test_where_channels_are_many_or_rounded_no_size_is_looked_for() -> None:
    case = Case(few(32, 64, 64))
    assert possible_sizes(case.sizes, case.channel_map, Pruning(min_channels=1)) is None
    case = Case(few(2, 4))
    assert possible_sizes(case.sizes, case.channel_map, Pruning(min_channels=1, round_to=2)) is None


@pytest.mark.parametrize("seed", [1, 2, 5, 7, 8, 9, 10])
def test_what_a_smaller_level_keeps_on_its_way_does_not_stop_the_larger_one(seed: int) -> None:
    case = small_vgg(3, 5, "pool", 6)
    larger = smaller = case.everything
    for event in range(1, 5):
        of_larger, of_smaller = (size_at(event / 4, start=1.0, end=end, ramp="cubic") for end in (0.8, 0.55))
        smaller = case.select(of_smaller, final=0.55, kept=smaller, seed=seed)
        larger = case.select(of_larger, final=0.8, kept=larger, seed=seed + 100 * event, protected=smaller)
        assert all(set(smaller[name].tolist()) <= set(larger[name].tolist()) for name in larger)
    assert case.macs(larger) == pytest.approx(0.8 * case.full, rel=TOLERANCE)


def test_groups_at_their_floors_leave_the_others_choices() -> None:
    case = Case(few(*[4] * 70))
    pruning = Pruning(min_channels=4, floors={"0": 2})
    possible = possible_sizes(case.sizes, case.channel_map, pruning)
    assert possible is not None
    assert possible[0] == pytest.approx(smallest_target(case.sizes, case.channel_map, pruning) * (1 + TOLERANCE))
