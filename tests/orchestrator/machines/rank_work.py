"""What tests have the ranks of a stage do, in Ray's processes."""

import os
from pathlib import Path

import ray
import torch

from orchestrator.machines.rank_crew import RankLost
from trainables.errors import InputError
from trainables.tune_adapter import CascadeTrainable


class Follower:
    """Adds up with the leader, fails when that is done, or dies in the midst of it."""

    def __init__(self, ranks, shared):
        self._ranks = ranks
        self._shared = shared

    def add(self):
        summed(self._ranks, self._shared)

    def fail(self):
        self.add()
        raise MemoryError("no room on the card")

    def refuse(self):
        raise InputError("no such image")

    def die(self):
        os._exit(1)


def summed(ranks, number):
    tensor = torch.tensor(float(number))
    ranks.add_up([tensor])
    return float(tensor)


def lead(actors, shared, works):
    """Lead a crew for each work, after one that goes well; what each gave, and whether crews were closed by then."""
    given, closed = [], []
    for work in works:
        crew = actors.start(Follower, *shared)
        for each in ("add", work):
            try:
                with crew.doing(each):
                    if each == "refuse":
                        raise InputError("no such image")
                    total = summed(crew.ranks, 1)
                given.append(total)
            except (RankLost, InputError) as error:
                given.append(str(error))
                closed.append(crew.closed and not torch.distributed.is_initialized())
    return given, closed


def lead_trial(cascade, teacher, data, settings, folder):
    """Run a trial half, and from its checkpoint to its end; its results and losses."""
    made = CascadeTrainable.__new__(CascadeTrainable)
    made.setup({"trial": 0, "cascade": cascade, "state": None}, teacher=teacher, data=data, settings=settings)
    epochs = list(made.step()["progress"])
    made.save_checkpoint(folder)
    lost = made.step()  # as by a crash
    assert lost["node"] == ray.get_runtime_context().get_node_id()
    made.load_checkpoint(folder)
    result = {"done": False}
    while not result["done"]:
        result = made.step()
        epochs += result["progress"]
    written = sorted(path.name for path in Path(settings.candidates).iterdir())
    made.cleanup()
    return [[level["train_loss"] for level in epoch["levels"]] for epoch in epochs], result["results"], written
