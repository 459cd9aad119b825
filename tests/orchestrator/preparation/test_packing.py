"""`gpus_per_trial: auto`: how many trials share a card, when that is measured, and what is said and kept of it."""

import json
import re
from dataclasses import replace

import pytest
import torch
from ray.exceptions import RayError

from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.resources import Resources
from orchestrator.policies.looks import Refusal, admit
from orchestrator.preparation import packing
from orchestrator.preparation.cards import Card, Measured
from orchestrator.preparation.packing import difference, greediest, most_together, pack, part_of_card, without_cards
from orchestrator.preparation.room import Footprints, find_room
from trainables.config import CascadeConfig
from trainables.recipe import Recipe

GIB = 2**30
MACHINE = {"CPU": 16.0, "GPU": 1.0}
# With a margin of a fifth ten of these fit into the card.
MEASURED = Measured(
    card="H100", card_bytes=80 * GIB, torch_bytes=6 * GIB, other_bytes=GIB // 2, usable_bytes=round(78.5 * GIB)
)


def experiment(gpus="auto", **others):
    resources = {"gpus_per_trial": gpus} | others.pop("resources", {})
    return parse_experiment({"model": {"name": "vgg-small", "width": 0.25}, "resources": resources} | others)


class Bench:
    """Packs as a search does, on a card that is made up."""

    def __init__(self, data, file):
        self.data, self.file = data, file
        self.machines = [MACHINE]
        self.card = Card(name="H100", bytes=80 * GIB, node="a")
        self.answer = MEASURED
        self.measured, self.looked_at, self.said = [], [], []

    def measure(self, experiment, task, cascade, data, *, node):
        self.measured.append((cascade, node))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def smallest_card(self, nodes):
        self.looked_at.append(tuple(nodes))
        return self.card

    def pack(self, at_once=20, look=admit, **others):
        return pack(
            experiment(**others), None, self.data, file=self.file, at_once=at_once, say=self.said.append, look=look
        )


@pytest.fixture
def bench(data, tmp_path, monkeypatch):
    made = Bench(data, tmp_path / "packing.json")
    monkeypatch.setattr(packing, "gpu_machines", lambda _kind=None: made.machines)
    monkeypatch.setattr(packing, "gpu_nodes", lambda _kind=None: [f"node-{n}" for n in range(len(made.machines))])
    monkeypatch.setattr(packing, "smallest_card", made.smallest_card)
    monkeypatch.setattr(packing, "measure", made.measure)
    return made


@pytest.mark.parametrize("number", [1, 2, 3, 6, 7, 16, 48, 99])
def test_all_of_a_cards_trials_fit_into_what_ray_counts_in(number):
    part = part_of_card(number)
    assert part == round(part, 4)  # Ray takes no finer part
    assert number * round(part * 10_000) <= 10_000 < (number + 1) * round(part * 10_000)
    assert part == pytest.approx(1 / number, abs=1e-4)


@pytest.mark.parametrize(
    ("machines", "resources", "at_once", "most"),
    [
        ([MACHINE], {}, 100, 16),
        ([MACHINE], {"cpus_per_trial": 3}, 100, 5),
        ([MACHINE], {"cpus_per_trial": 0.1}, 100, 100),
        ([MACHINE], {}, 5, 5),
        ([{"CPU": 60.0, "GPU": 8.0}], {}, 100, 7),
        ([{"CPU": 60.0, "GPU": 8.0}], {}, 20, 2),  # all cards with two each, not seven of them with three
        ([{"CPU": 60.0, "GPU": 8.0}], {}, 4, 1),
        ([MACHINE] * 4, {}, 20, 5),
        ([MACHINE, {"CPU": 4.0, "GPU": 1.0}], {}, 100, 4),
        ([{"CPU": 1.0, "GPU": 4.0}], {}, 100, 1),
    ],
)
def test_cpus_and_trials_limit_how_many_share_a_card_and_no_card_idles(machines, resources, at_once, most):
    assert most_together(machines, Resources(gpus_per_trial="auto", **resources), at_once=at_once) == most


def test_as_many_trials_share_a_card_as_fit_and_it_is_said_kept_and_recorded(bench):
    packed = bench.pack()
    assert packed.experiment.resources == Resources(gpus_per_trial=0.1)
    chosen, warning = bench.said
    assert chosen == (
        "resources.gpus_per_trial is auto: the largest cascade takes 6.5 GiB of a card's 78.5 GiB (H100, "
        "measured now); with 20 % to spare 10 trials share a card: 0.1"
    )
    assert "that shapes alone say" in warning
    kept = json.loads(bench.file.read_text())
    assert kept == {"measured": MEASURED.to_dict(), "trials_a_card": 10, "gpus_per_trial": 0.1}
    assert packed.parameters == {
        "resources.gpus_per_trial.chosen": 0.1,
        "resources.gpus_per_trial.measured_gib": 6.5,
        "resources.gpus_per_trial.card": "H100",
    }
    assert bench.looked_at == []  # there is but one card to measure on


def test_what_is_measured_is_the_cascade_that_takes_most(bench):
    bench.pack(space={"num_assistants": [0, 2], "schedule": ["joint", "sequential"]})
    ((cascade, node),) = bench.measured
    assert (cascade.num_levels, cascade.schedule, node) == (3, "joint", None)


def test_a_resume_measures_nothing_and_takes_the_same_part(bench):
    first = bench.pack()
    again = bench.pack()
    assert again.experiment == first.experiment
    assert len(bench.measured) == 1
    assert "(H100, measured before)" in bench.said[-2]
    more = bench.pack(at_once=3)  # what may differ on a resume is seen to
    assert more.experiment.resources.gpus_per_trial == part_of_card(3)
    assert "3 trials share a card, though 10 would fit, as CPUs and trials allow no more: 0.3333" in bench.said[-2]
    assert len(bench.measured) == 1


@pytest.mark.parametrize("text", ["", "{}", '{"measured": {"card": "H100"}}', '{"measured": 1}', "[1]"])
def test_a_file_that_cannot_be_read_is_measured_anew(bench, text):
    bench.file.write_text(text)
    bench.pack()
    assert len(bench.measured) == 1
    assert json.loads(bench.file.read_text())["trials_a_card"] == 10


def test_another_card_is_measured_anew(bench):
    bench.pack()
    bench.card = replace(bench.card, name="L4", bytes=24 * GIB)
    bench.answer = replace(MEASURED, card="L4", card_bytes=24 * GIB, usable_bytes=23 * GIB)
    assert bench.pack().experiment.resources.gpus_per_trial == 0.5
    assert len(bench.measured) == 2
    assert json.loads(bench.file.read_text())["measured"]["card"] == "L4"


def test_of_several_machines_the_one_with_the_smallest_card_is_measured_on(bench):
    bench.machines = [MACHINE] * 2
    bench.pack()
    assert bench.looked_at == [("node-0", "node-1")]
    assert bench.measured[0][1] == "a"


def test_machines_that_are_still_to_come_are_measured_on_when_they_do(bench, monkeypatch):
    bench.pack()
    monkeypatch.setattr(packing, "gpu_nodes", lambda _kind=None: [])
    bench.pack()
    assert [node for _, node in bench.measured] == [None, None]


def test_where_no_two_trials_could_share_a_card_nothing_is_measured(bench):
    packed = bench.pack(at_once=1)
    assert (packed.experiment.resources.gpus_per_trial, bench.measured) == (1.0, [])
    assert bench.said == [
        "resources.gpus_per_trial is auto: 1, as CPUs and the number of trials that run at the same time allow no more "
        "on a card"
    ]
    assert packed.parameters == {"resources.gpus_per_trial.chosen": 1.0}


def test_what_cannot_be_measured_has_a_card_to_itself(bench):
    bench.answer = RayError("the machine is gone")
    bench.answer.cause = torch.OutOfMemoryError("CUDA out of memory.\nand more")
    packed = bench.pack()
    assert packed.experiment.resources.gpus_per_trial == 1.0
    assert bench.said == [
        "resources.gpus_per_trial is auto: 1, as the largest cascade could not be measured (OutOfMemoryError: "
        "CUDA out of memory.)"
    ]
    assert not bench.file.exists()


def test_a_number_is_left_as_it_is(bench):
    packed = bench.pack(gpus=0.5)
    assert packed.experiment.resources.gpus_per_trial == 0.5
    assert (bench.said, bench.measured, packed.parameters) == ([], [], {})


def test_cascades_that_would_not_fit_into_their_part_are_refused(bench):
    whole = CascadeConfig(macs_kept=(0.5, 0.1), recipe=Recipe(batch_size=64))
    assert bench.pack().look(whole) is None
    bench.answer = replace(MEASURED, torch_bytes=GIB // 1024, other_bytes=GIB // 1024, usable_bytes=GIB // 50)
    refusal = bench.pack(at_once=20).look(whole)
    assert refusal is None  # the second call knows the first measurement
    bench.file.unlink()
    refusal = bench.pack(at_once=20).look(whole)
    assert "but the card has 0.02 GiB for 8 trials at the same time" in refusal.reason


def test_trials_that_fill_a_card_are_so_many_for_the_room_too(monkeypatch):
    monkeypatch.setattr("orchestrator.preparation.room.ray.get", lambda _: 80 * GIB)
    monkeypatch.setattr(
        "orchestrator.preparation.room.ray.nodes", lambda: [{"Alive": True, "NodeID": "a", "Resources": MACHINE}]
    )

    class Remote:
        def __init__(self, task):
            pass

        def remote(self):
            return None

    monkeypatch.setattr("orchestrator.preparation.room.ray.remote", lambda **_: Remote)
    for number in range(1, 60):
        assert find_room(Resources(gpus_per_trial=part_of_card(number)), num_trials=100).trials == number
    assert find_room(Resources(gpus_per_trial="auto"), num_trials=100).trials == 1


def large_batches(trial, defaults):
    if trial.suggest_categorical("large", [False, True]):
        return CascadeConfig(macs_kept=(0.1,), recipe=Recipe(batch_size=64))
    return CascadeConfig(macs_kept=(0.5, 0.4, 0.3), recipe=Recipe(batch_size=4))


def test_in_a_space_of_ones_own_memory_counts_and_not_levels(data, monkeypatch):
    monkeypatch.setattr("torchvision.space_of_this_test", large_batches, raising=False)
    own = experiment(space="torchvision:space_of_this_test")
    assert greediest(own, Footprints(own, data)).recipe.batch_size == 64


def test_what_will_not_be_run_need_not_fit(bench):
    bench.pack(look=lambda cascade: Refusal(reason="too many") if cascade.num_levels > 1 else None)
    assert bench.measured[0][0].num_levels == 1


def test_where_shapes_say_nothing_levels_and_sizes_count(data, monkeypatch):
    monkeypatch.setattr("orchestrator.preparation.room.footprint", lambda *_, **__: None)
    space = {"num_assistants": [0, 2], "student_macs_kept": [0.1, 0.5]}
    cascade = greediest(experiment(space=space), Footprints(experiment(), data))
    assert cascade.num_levels == 3
    assert cascade.macs_kept[-1] > 0.3


@pytest.mark.parametrize(
    ("torch_bytes", "said"),
    [
        (2 * GIB, None),
        (6 * GIB + GIB // 2, None),
        (7 * GIB, "torch held 7 GiB, 3.5 times the 2 GiB that shapes alone say, so .* refused too late"),
        (GIB, "torch held 1 GiB, 0.5 times the 2 GiB that shapes alone say, so .* refused too early"),
    ],
)
def test_a_measurement_far_from_what_shapes_say_is_told(torch_bytes, said):
    found = difference(torch_bytes, 2 * GIB)
    assert found is None if said is None else re.search(said, found)


@pytest.mark.parametrize(
    ("machines", "resources", "gpus", "said"),
    [
        ([], {}, 0.0, ["resources.gpus_per_trial is auto, and no machine has a GPU: trials run on CPUs"]),
        (
            [],
            {"address": "auto"},
            0.0,
            [
                "resources.gpus_per_trial is auto, and no machine has a GPU: trials run on CPUs; if some are still "
                "starting, stop, and --resume once they are there"
            ],
        ),
        ([MACHINE], {}, "auto", []),
        ([], {"gpu_kind": "H100"}, "auto", []),  # and is refused, as it would be with a number
    ],
)
def test_without_a_card_auto_is_none_and_said(bench, machines, resources, gpus, said):
    bench.machines = machines
    found = without_cards(experiment(resources=resources), bench.said.append)
    assert (found.resources.gpus_per_trial, bench.said) == (gpus, said)
    number = experiment(gpus=2)
    assert without_cards(number, bench.said.append) is number


def test_auto_is_written_down_as_it_was_asked():
    asked = experiment()
    assert parse_experiment(asked.to_dict()) == asked
    assert asked.to_dict()["resources"]["gpus_per_trial"] == "auto"


def test_until_it_is_known_a_trial_has_a_card_and_one_rank():
    resources = Resources(gpus_per_trial="auto", gpu_kind="H100", ranks_per_trial=1)
    assert (resources.num_gpus, resources.num_ranks) == (1.0, 1)
    assert (resources.with_gpus(0.25).num_gpus, resources.with_gpus(0.25).num_ranks) == (0.25, 1)
