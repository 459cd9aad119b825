"""What tests of several ranks have each rank do: plain functions of its `Ranks`, run in two processes at once."""

import copy
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.trainables.conftest import make_network
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.hardware.ranks import RanksDiffer, join, leave
from trainables.hardware.whole_batch import whole_batch
from trainables.recipe import Recipe
from trainables.stages import midway
from trainables.stages.cascade import CascadeStage
from trainables.stages.evaluation import evaluate
from trainables.stages.teacher import TeacherStage
from trainables.trial import CascadeTrial

WAIT = timedelta(seconds=60)


def second_rank(meeting, connection):
    """Live as rank 1 of two: run what is sent until nothing more comes."""
    torch.set_num_threads(1)
    ranks = join(1, 2, meeting=Path(meeting), backend="gloo", wait=WAIT)
    for job, arguments in iter(connection.recv, None):
        connection.send(job(ranks, *arguments))
    leave()
    assert not threads_of_groups()


def threads_of_groups():
    """Names of this process's threads that belong to a process group; they must not outlive it."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def _trial(ranks, network, config, arrays, state=None):
    trial = CascadeTrial(
        make_network(network),
        config=CascadeConfig.from_dict(config),
        data=DataSplits.from_arrays(arrays),
        augmentation="crop-flip",
        ranks=ranks,
    )
    if state is not None:
        trial.load_state(*state)
    return trial


def losses_and_levels(ranks, network, config, arrays):
    """Every level's loss of every step, and what the levels came to: channels and figures."""
    trial, losses = _trial(ranks, network, config, arrays), []
    original = CascadeStage.train_step

    def recorded(stage, images, labels):
        losses.append(original(stage, images, labels).clone())
        return losses[-1]

    CascadeStage.train_step = recorded
    try:
        list(trial.run())
    finally:
        CascadeStage.train_step = original
    kept = {level: {n: t.shape for n, t in net.state_dict().items()} for level, net in trial.networks.items()}
    return torch.cat(losses), kept, [result.to_dict() for result in trial.results]


@contextmanager
def _leaving_off_anywhere(ranks):
    """Within it an epoch can be left off after each batch; seconds of a part, as the first rank's clock decides."""
    paced, midway.PACED_BATCHES = midway.PACED_BATCHES, 1
    try:
        yield (0.0, 1e9)[ranks.rank]
    finally:
        midway.PACED_BATCHES = paced


def in_parts(ranks, network, config, arrays):
    """Where each part of the epochs ended, in epochs, and what the levels came to; each part goes on from a state."""
    with _leaving_off_anywhere(ranks) as seconds:
        trial, places = _trial(ranks, network, config, arrays), []
        while not trial.finished:
            trial.train_for(seconds)
            places.append(trial.epochs_done)
            trial = _trial(ranks, network, config, arrays, trial.state())
    return places, [result.to_dict() for result in trial.results]


def one_epoch(ranks, network, config, arrays, state):
    """State after the next epoch."""
    trial = _trial(ranks, network, config, arrays, state)
    progress = trial.train_epoch()
    return trial.state(), progress.levels[-1].train_loss


def channels(ranks, network, config, arrays):
    """Channels that the levels keep after one epoch, or why there are none."""
    trial = _trial(ranks, network, config, arrays)
    try:
        trial.train_epoch()
    except RanksDiffer as error:
        return str(error)
    return [{group: kept.tolist() for group, kept in level.kept.items()} for level in trial._stage.levels]


def channels_of_another_size(ranks, network, config, arrays):
    """Why an epoch failed in which the second rank's smallest level shall be smaller."""
    large, small = config["macs_kept"]
    return channels(ranks, network, config | {"macs_kept": [large, small - 0.1 * ranks.rank]}, arrays)


def other_weights(ranks, network, config, arrays):
    """Why an epoch failed in which each rank started from other weights."""
    trial = _trial(ranks, network, config, arrays)
    with torch.no_grad():
        trial._stage._shared.network.get_parameter("classifier.weight").add_(ranks.rank)
    try:
        trial.train_epoch()
    except RanksDiffer as error:
        return str(error)


def teacher(ranks, network, recipe, arrays):
    """Losses and accuracy of a teacher's epochs, and its weights."""
    stage = _teacher(ranks, network, recipe, arrays)
    found = []
    while not stage.finished:
        level = stage.train_epoch().levels[0]
        found.append((level.train_loss, level.val_accuracy))
    return found, stage.network.state_dict()


def _teacher(ranks, network, recipe, arrays):
    data = DataSplits.from_arrays(arrays)
    trained = make_network(network)
    return TeacherStage(trained, recipe=Recipe.from_dict(recipe), data=data, augmentation="crop", ranks=ranks)


def teacher_in_parts(ranks, network, recipe, arrays):
    """As `teacher`, leaving off after each batch, to go on in a stage made anew; and how often that was."""
    found, parts = [], 0
    with _leaving_off_anywhere(ranks) as seconds:
        stage = _teacher(ranks, network, recipe, arrays)
        while not stage.finished:
            progress = stage.train_for(seconds)
            if progress is None:
                parts += 1
            else:
                found.append((progress.levels[0].train_loss, progress.levels[0].val_accuracy))
            state = stage.state()
            stage = _teacher(ranks, network, recipe, arrays)
            stage.load_state(*state)
    return found, stage.network.state_dict(), parts


def accuracy(ranks, network, arrays):
    return evaluate(make_network(network), DataSplits.from_arrays(arrays), ranks)


def normalised(ranks, layer, images, weights):
    """Output, gradients and statistics of a layer on this rank's part of some images."""
    layer, own = copy.deepcopy(layer), ranks.part(len(images))
    images = images[own].clone().requires_grad_()
    with whole_batch(ranks, len(weights)):
        out = layer(images)
    (out * weights[own]).sum().backward()
    gradients = [images.new_zeros(1), *(parameter.grad for parameter in layer.parameters())]
    ranks.add_up(gradients)
    return out.detach(), images.grad, gradients, dict(layer.named_buffers())


def dropped(ranks, images, dims):
    function = {1: F.dropout, 2: F.dropout2d}[dims]
    torch.manual_seed(5)
    with whole_batch(ranks, len(images)):
        return function(images[ranks.part(len(images))], 0.4)


def summed(ranks, tensors):
    tensors = [tensor * (ranks.rank + 1) for tensor in tensors]
    ranks.add_up(tensors)
    return tensors
