"""Two processes that talk over gloo against one: the same steps, the same channels."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.trainables.hardware import rank_jobs
from trainables.config import CascadeConfig
from trainables.datasets.images import ImageSet
from trainables.errors import InputError
from trainables.hardware.ranks import ALONE, Ranks, join, leave
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import micro_batches, require_parts

RECIPE = Recipe(epochs=2, batch_size=21, learning_rate=0.05)  # of 21 images a rank has ten, the other eleven
CONFIG = CascadeConfig(macs_kept=(0.6, 0.3), recipe=RECIPE, pruning=Pruning(num_prunings=3))
RICH = replace(
    RECIPE, accumulate=3, ema=0.9, mix="both", optimizer="adamw", learning_rate=0.005, momentum=0.9, max_grad_norm=0.5
)
integration = pytest.mark.integration


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Run a job on two ranks at once, this process being the first of them; what each of them gave."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=rank_jobs.second_rank, args=(meeting, there))
    other.start()
    there.close()  # so that nobody waits for the answer of a process that has ended
    ranks = join(0, 2, meeting=meeting, backend="gloo", wait=rank_jobs.WAIT)

    def run(job, *arguments):
        here.send((job, arguments))
        return job(ranks, *arguments), here.recv()

    yield run
    here.send(None)
    leave()
    other.join()
    assert other.exitcode == 0
    assert not rank_jobs.threads_of_groups()


@pytest.fixture
def arrays(data):
    return data.to_arrays()


@integration
@pytest.mark.parametrize(
    ("network", "config"),
    [
        ("vgg-small", CONFIG),
        ("own", replace(CONFIG, schedule="sequential", recovery_epochs=1)),  # with dropout, and a layer without a norm
        (
            "vgg-small",
            replace(
                CONFIG,
                recipe=RICH,
                pruning=replace(CONFIG.pruning, saliency_loss="labels"),
                feature_weight=3.0,
                level_weight_growth=2.0,
            ),
        ),
        (
            "vgg-small",
            replace(
                CONFIG,
                macs_kept=(0.8, 0.6, 0.45, 0.3),
                recipe=replace(RECIPE, accumulate=3),
                pruning=replace(CONFIG.pruning, regrowth=0.5),
                teacher_views=1,
                levels_a_step=3,
            ),
        ),
    ],
    ids=[
        "joint",
        "sequential with dropout",
        "micro-batches, averages, mixing, clipping, features, weighted levels",
        "remembered logits, some levels a step, channels come back",
    ],
)
def test_two_ranks_take_the_steps_of_one_process(both, arrays, network, config):
    job = (rank_jobs.losses_and_levels, network, config.to_dict(), arrays)
    (losses, widths, results), (other_losses, other_widths, other_results) = both(*job)
    alone_losses, alone_widths, alone_results = job[0](ALONE, *job[1:])
    assert torch.equal(losses, other_losses)
    assert torch.allclose(losses, alone_losses, rtol=0, atol=1e-5)
    assert losses.unique().numel() > 6
    assert widths == other_widths == alone_widths
    assert results == other_results == alone_results


@integration
def test_two_ranks_leave_off_within_an_epoch_at_the_same_batch_and_go_on(both, arrays):
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1)).to_dict()
    own, others = both(rank_jobs.in_parts, "own", config, arrays)
    assert own == others
    places, found = own
    assert len(places) > 2
    assert found == both(rank_jobs.losses_and_levels, "own", config, arrays)[0][2]


@integration
@pytest.mark.parametrize("saliency", ["gate-gradient", "random"])
def test_every_rank_cuts_the_channels_that_one_process_cuts(both, arrays, saliency):
    config = replace(CONFIG, pruning=replace(CONFIG.pruning, saliency=saliency))
    job = (rank_jobs.channels, "own", config.to_dict(), arrays)
    own, other = both(*job)
    assert own == other == job[0](ALONE, *job[1:])
    assert any(len(kept) < 8 for kept in own[1].values())


@integration
def test_a_checkpoint_is_gone_on_from_on_another_number_of_ranks(both, arrays):
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=3)).to_dict()

    def one(state):
        return rank_jobs.one_epoch(ALONE, "vgg-small", config, arrays, state)

    def two(state):
        own, _ = both(rank_jobs.one_epoch, "vgg-small", config, arrays, state)
        return own

    losses = {}
    for way in ((one, one, one), (two, one, two), (one, two, one)):
        state, losses[way] = None, []
        for epoch in way:
            state, loss = epoch(state)
            losses[way].append(loss)
    expected, *others = losses.values()
    for found in others:
        assert found == pytest.approx(expected, rel=0, abs=1e-5)


@integration
def test_ranks_that_differ_are_found(both, arrays):
    here, there = both(rank_jobs.other_weights, "vgg-small", replace(CONFIG, macs_kept=(0.9,)).to_dict(), arrays)
    assert here == there
    assert here.startswith("weights of rank 1 are not those of rank 0 (of 2)")
    here, there = both(rank_jobs.channels_of_another_size, "vgg-small", CONFIG.to_dict(), arrays)
    assert here == there
    assert here.startswith("channels of level 2 of rank 1 are not those of rank 0 (of 2)")


@integration
def test_two_ranks_train_the_teacher_of_one(both, arrays):
    job = (rank_jobs.teacher, "vgg-small", replace(RICH, mix="none").to_dict(), arrays)
    (found, weights), (other_found, other_weights) = both(*job)
    alone, alone_weights = job[0](ALONE, *job[1:])
    assert found == other_found
    for (loss, val_accuracy), (alone_loss, alone_accuracy) in zip(found, alone, strict=True):
        assert loss == pytest.approx(alone_loss, rel=0, abs=1e-5)
        assert val_accuracy == alone_accuracy
    for name, tensor in weights.items():
        assert torch.equal(tensor, other_weights[name])
        assert torch.allclose(tensor, alone_weights[name], rtol=0, atol=1e-5)


@integration
def test_two_ranks_leave_a_teacher_off_within_an_epoch_at_the_same_batch_and_go_on(both, arrays):
    job = ("own", replace(RICH, epochs=2).to_dict(), arrays)  # with dropout and mixing
    (found, weights, parts), (other_found, _, other_parts) = both(rank_jobs.teacher_in_parts, *job)
    assert found == other_found
    assert parts == other_parts > 2
    unbroken, unbroken_weights = both(rank_jobs.teacher, *job)[0]
    assert found == unbroken
    for name, tensor in weights.items():
        assert torch.equal(tensor, unbroken_weights[name])


@integration
@pytest.mark.parametrize("labels", ["one", "several"])
def test_each_rank_evaluates_its_part(both, data, labels):
    images, labels_N = data.val.images_NCHW[:31], data.val.labels_N[:31]
    if labels == "several":
        labels_N = torch.rand(31, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    val = ImageSet(images_NCHW=images, labels_N=labels_N)
    data = replace(data, train=val, val=val)
    own, other = both(rank_jobs.accuracy, "vgg-small", data.to_arrays())
    assert own == other == rank_jobs.accuracy(ALONE, "vgg-small", data.to_arrays())
    assert 0 < own.accuracy < 1


@integration
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", ["scale and shift", "neither"])
def test_batch_norm_sees_the_images_of_all_ranks(both, affine, momentum):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 4, 4, generator=generator) * 3 + 7
    weights = torch.randn(5, 3, 4, 4, generator=generator)
    layer = nn.BatchNorm2d(3, affine=affine == "scale and shift", momentum=momentum)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    own, other = both(rank_jobs.normalised, layer, images, weights)
    out, of_images, of_parameters, statistics = rank_jobs.normalised(ALONE, layer, images, weights)
    assert torch.allclose(torch.cat([own[0], other[0]]), out, atol=1e-5)
    assert torch.allclose(torch.cat([own[1], other[1]]), of_images, atol=1e-5)
    for found, expected in zip(own[2], of_parameters, strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
    for name, expected in statistics.items():
        assert torch.allclose(own[3][name], expected)
        assert torch.equal(own[3][name], other[3][name])


@integration
@pytest.mark.parametrize("dims", [1, 2])
def test_dropout_drops_what_one_process_drops(both, dims):
    images = torch.rand(5, 3, 4, 4) + 1
    assert torch.equal(torch.cat(both(rank_jobs.dropped, images, dims)), rank_jobs.dropped(ALONE, images, dims))


@integration
def test_sums_are_in_place_and_the_same_on_all(both):
    own, other = both(rank_jobs.summed, [torch.ones(2, 3), torch.tensor(2.0)])
    assert torch.equal(own[0], torch.full((2, 3), 3.0))
    assert torch.equal(own[1], torch.tensor(6.0))
    assert torch.equal(own[0], other[0])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 2, 7])
def test_parts_follow_one_another_and_are_as_equal_as_can_be(size, number):
    parts = [range(number)[Ranks(rank=rank, size=size).part(number)] for rank in range(size)]
    assert [thing for part in parts for thing in part] == list(range(number))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_alone_changes_nothing():
    tensor = torch.rand(3)
    before = tensor.clone()
    ALONE.add_up([tensor])
    ALONE.average([tensor])
    ALONE.require_same({"a": tensor}, what="weights")
    assert torch.equal(tensor, before)


def test_shares_of_all_parts_of_all_ranks_make_one_batch():
    images, labels = torch.rand(11, 3, 2, 2), torch.arange(11)
    ranks = [Ranks(rank=rank, size=2) for rank in range(2)]
    parts = [part for rank in ranks for part in micro_batches(images, labels, 3, rank)]
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(11))
    assert [part.num_together for part in parts] == [4, 4, 3] * 2


def test_recipes_that_several_ranks_cannot_share_are_refused():
    require_parts(RICH, num_train=1000, ranks=7, section="cascade.recipe")
    message = (
        r"^cascade\.recipe\.batch_size is 21 and cascade\.recipe\.accumulate 3, so that 7 images .* each of 8 ranks"
    )
    with pytest.raises(InputError, match=message):
        require_parts(RICH, num_train=1000, ranks=8, section="cascade.recipe")
    with pytest.raises(InputError, match=r"^teacher\.batch_size is 21 .* so that 3 images"):
        require_parts(RECIPE, num_train=3, ranks=4, section="teacher")
    with pytest.raises(InputError, match=r"^teacher\.execution is 'compile', but 2 ranks"):
        require_parts(replace(RECIPE, execution="compile"), num_train=1000, ranks=2, section="teacher")
    require_parts(replace(RECIPE, execution="compile"), num_train=1, ranks=1, section="teacher")
