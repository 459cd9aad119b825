"""What is looked at before a search begins: that the network, the space and the data fit one another."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from orchestrator.data.classes import class_notes, require_differences
from orchestrator.data.leakage import leakage_notes
from orchestrator.experiment.config import Experiment
from orchestrator.experiment.idle import idle_notes
from orchestrator.experiment.machine_rules import AUTO, LOCAL
from orchestrator.experiment.resources import Resources
from orchestrator.policies.looks import Look, admit
from orchestrator.policies.probe import SpaceProbe
from orchestrator.preparation.exportable import export_notes
from orchestrator.preparation.size_looks import held_reasons, make_look
from orchestrator.words import counted
from search_spaces.cascade import CascadeSpace
from search_spaces.naming import named
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, first_line
from trainables.files.checkpoint import rebuild
from trainables.files.input_spec import InputSpec
from trainables.hardware.convolutions import has_kernels_for_bf16
from trainables.hardware.execution import require_compiler
from trainables.imports import is_import_path
from trainables.memory import require_room_for_network
from trainables.networks.given_weights import load_weights
from trainables.networks.models import build, find_builder
from trainables.pruning.contracts import Findings, check_contracts
from trainables.pruning.cost import LatencyTable
from trainables.pruning.probe import TOLERANCE
from trainables.pruning.saliency import find_criterion
from trainables.recipe import Precision, Recipe
from trainables.stages.batches import require_parts
from trainables.stages.features import find_boundaries
from trainables.stages.objective import Objective
from trainables.stages.teacher import require_trainable


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What is known of a search that may begin.

    Attributes:
        look: refuses cascades that such a teacher cannot be pruned to.
        notes: what people should know before they wait for it.
        timed: where sizes are in latency, gives the look once layers are timed, and raises an `InputError` where the
            space asks for what cannot be; until then `look` admits all.
    """

    look: Look
    notes: tuple[str, ...]
    timed: Callable[[LatencyTable], Look] | None = None


def check_network(experiment: Experiment, data: DataSplits) -> Checked:
    """Build the teacher once and check its contracts and weights, so that what is wrong shows before work starts.

    Raises:
        InputError: naming what is wrong.
    """
    require_differences(data)
    criteria = _check_settings(experiment, data)
    network = _build_teacher(experiment, data)
    trained = _trained(experiment)
    findings = _check_contracts(network, experiment, data, criteria, trained)
    _check_rebuilding(network, experiment, data)
    boundaries = cache(partial(find_boundaries, network, findings.channel_map, data.input_shape))
    if experiment.cascade.feature_weight > 0:
        with named("cascade."):
            boundaries()
    look_with = partial(make_look, experiment, network, findings, data, boundaries)
    look: Look = admit
    timed: Callable[[LatencyTable], Look] | None = None
    if experiment.cascade.pruning.size_in == "latency":
        space = experiment.find_space()
        SpaceProbe(space, experiment.cascade).check_points(experiment.starting_points)  # as far as no times are needed
        timed = look_with
    else:
        look = look_with(None)
    of_data = (*_metric_notes(data), *class_notes(data), *leakage_notes(data))
    of_network = (*_network_notes(findings, data), *export_notes(network, experiment.model, data))
    of_training = (*_batch_notes(trained, data), *_speed_notes(trained, experiment.resources))
    notes = (*of_data, *of_network, *of_training, *idle_notes(experiment))
    return Checked(look=look, notes=notes, timed=timed)


def _check_settings(experiment: Experiment, data: DataSplits) -> tuple[str, ...]:
    """Check what training is told against the data, before there is a network; the criteria of saliency.

    Raises:
        InputError: naming the key.
    """
    cascade = experiment.cascade
    for key, recipe in (("teacher", experiment.teacher), ("cascade.recipe", cascade.recipe)):
        with named(f"{key}."):
            require_compiler(recipe.execution)
            Objective.of(recipe, data)
    with named("cascade."):
        Objective.of(cascade.recipe, data, non_target_weight=cascade.non_target_weight)
    space = experiment.find_space()
    if isinstance(space, CascadeSpace) and space.learning_rate is not None:
        with named("space.learning_rate ends where cascade.recipe."):
            replace(cascade.recipe, learning_rate=space.learning_rate[1])
    criteria = (space.saliency if isinstance(space, CascadeSpace) else None) or (cascade.pruning.saliency,)
    for criterion in criteria:
        find_criterion(criterion)
    return criteria


def _build_teacher(experiment: Experiment, data: DataSplits) -> nn.Module:
    """The teacher's network, with its weights where there are some.

    Raises:
        InputError: if it cannot be built or trained, its weights are none of its, or it gives no score for each class.
    """
    model = experiment.model
    require_room_for_network(model, num_classes=data.num_classes, in_channels=data.in_channels)
    network = build(model, num_classes=data.num_classes, in_channels=data.in_channels)
    if model.weights is None:
        require_trainable(network)
    else:
        load_weights(network, Path(model.weights))
    num_outputs = _num_outputs(network, experiment, data)
    if num_outputs != data.num_classes:
        raise InputError(
            f"model.name is {model.name!r}, which gives {num_outputs} scores an image, but the data has "
            f"{data.num_classes} classes; build it with num_classes outputs"
        )
    return network


def _trained(experiment: Experiment) -> dict[str, Recipe]:
    """The recipes that something is trained by, by their keys."""
    of_cascades = {"cascade.recipe": experiment.cascade.recipe}
    return of_cascades if experiment.model.weights is not None else {"teacher": experiment.teacher} | of_cascades


def _check_contracts(
    network: nn.Module,
    experiment: Experiment,
    data: DataSplits,
    criteria: tuple[str, ...],
    trained: Mapping[str, Recipe],
) -> Findings:
    """Check that the network can be pruned, as it is trained, and that weights which are given tell channels apart.

    Raises:
        InputError: naming the contract that does not hold.
    """
    precisions: list[Precision] = ["fp32"]
    # Without kernels a step in bfloat16 takes up to a minute.
    if _on_processor(experiment.resources) and has_kernels_for_bf16():
        precisions = [recipe.precision for recipe in trained.values()]
    findings = check_contracts(
        network, data.input_shape, pruning=experiment.cascade.pruning, criteria=criteria, precisions=precisions
    )
    if findings.silent and experiment.model.weights is not None:
        raise InputError(
            f"model.weights is {experiment.model.weights}, but with it group {findings.silent[0]} has no saliency: "
            "nothing tells its channels apart; is a layer behind it all zeros?"
        )
    return findings


def _num_outputs(network: nn.Module, experiment: Experiment, data: DataSplits) -> int:
    """Scores that a network gives for an image.

    Raises:
        InputError: if it cannot take the images, or gives no scores.
    """
    channels, size, _ = data.input_shape
    images = f"images of {counted(channels, 'channel')} and {size}x{size} pixels"
    try:
        with torch.no_grad():
            scores_NK = network.eval()(torch.zeros(2, *data.input_shape))
    except Exception as error:  # whatever a forward pass of the user's own raises
        raise InputError(
            f"model.name is {experiment.model.name!r}, which cannot take {images}: {first_line(error)}; "
            "give a network that can, or bring images to another data.image_size where their channels do fit"
        ) from error
    if not isinstance(scores_NK, torch.Tensor) or scores_NK.ndim != 2:
        what = f"shape {tuple(scores_NK.shape)}" if isinstance(scores_NK, torch.Tensor) else type(scores_NK).__name__
        raise InputError(
            f"model.name is {experiment.model.name!r}, which gives {what} for 2 {images}, but must give a tensor of "
            f"scores of shape (2, {data.num_classes})"
        )
    return scores_NK.shape[1]


def _check_rebuilding(network: nn.Module, experiment: Experiment, data: DataSplits) -> None:
    """Check that the network, once trained and saved, will be read again."""
    name = experiment.model.name
    builder = find_builder(name) if is_import_path(name) else None
    images_NCHW = torch.randn(2, *data.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        again = rebuild(network, model=experiment.model, input_spec=InputSpec.of(data), builder=builder)
        with torch.no_grad():
            scores_NK, wanted_NK = again(images_NCHW), network.eval()(images_NCHW)
        if not (scores_NK - wanted_NK).abs().max() <= TOLERANCE * wanted_NK.abs().max():  # not-a-number is neither
            raise InputError(
                "it gives other scores; what it computes must depend on its parameters and buffers alone, which those "
                "of layers in a plain list are not; put such layers into an nn.ModuleList"
            )
    except Exception as error:  # whatever a forward pass of the user's own raises
        raise InputError(
            f"model.name is {name!r}, whose network could not be read again once it was trained and saved: "
            f"{first_line(error)}"
        ) from error


def _metric_notes(data: DataSplits) -> Iterator[str]:
    if data.multi_label:
        yield "images may have several classes: what is called accuracy here is their mean average precision"


def _network_notes(findings: Findings, data: DataSplits) -> Iterator[str]:
    """What stays whole, what nothing is known of yet, and scores of a kind that the losses do not take."""
    held = held_reasons(findings)
    if held:
        some = "1 layer or group of them stays" if len(held) == 1 else f"{len(held)} layers or groups of them stay"
        yield f"{some} whole, such as {held[0]}"
    if findings.silent:
        number = len(findings.silent)
        yield (
            f"{counted(number, 'group')} of channels {'has' if number == 1 else 'have'} no saliency at the start, such "
            f"as {findings.silent[0]}, "
            "as behind weights that begin at zero; a trial fails, and says so, where one has none when channels go"
        )
    if findings.probabilities and not data.multi_label:
        yield (
            "the network gives probabilities, as behind a softmax, but the losses take logits and apply one "
            "themselves: networks learn worse; leave the last softmax out"
        )


def _batch_notes(recipes: Mapping[str, Recipe], data: DataSplits) -> Iterator[str]:
    """Recipes that take all images in a batch, by their keys."""
    for key, recipe in recipes.items():
        if recipe.batch_size >= len(data.train):
            yield (
                f"{key}.batch_size is {recipe.batch_size}, but there are {len(data.train)} training images: an epoch "
                "is one step, of which too few may be taken to learn anything; lower it"
            )


def _speed_notes(recipes: Mapping[str, Recipe], resources: Resources) -> Iterator[str]:
    """What slows training by these recipes down where trials run on a processor."""
    if not _on_processor(resources):
        return
    in_bf16 = [key for key, recipe in recipes.items() if recipe.precision == "bf16"]
    if in_bf16 and not torch.cpu.get_capabilities().get("avx512_bf16"):
        key = in_bf16[0]
        yield f"{key}.precision is bf16, but this processor has no avx512_bf16: training is slower than with fp32"
    compiled = [key for key, recipe in recipes.items() if recipe.execution == "compile"]
    if compiled:
        yield (
            f"{compiled[0]}.execution is compile, but trials run on a processor, where compiling takes minutes and "
            "in our benchmarks made a VGG16 slower and a MobileNetV2 faster on one machine of two; measure first"
        )


def _on_processor(resources: Resources) -> bool:
    """Whether it is known that trials run without a card."""
    no_card = resources.gpus_per_trial == AUTO and resources.address == LOCAL and not torch.cuda.is_available()
    return resources.num_gpus == 0 or no_card


def check_ranks(experiment: Experiment, data: DataSplits) -> None:
    """Check that every rank of a trial and of the teacher's training has work.

    Raises:
        InputError: if a micro-batch has fewer images than there are ranks, or steps are compiled.
    """
    ranks, teacher, num_train = experiment.resources.num_ranks, experiment.resources.teacher, len(data.train)
    require_parts(experiment.cascade.recipe, num_train=num_train, ranks=ranks, section="cascade.recipe")
    if teacher is not None and experiment.model.weights is None:
        require_parts(experiment.teacher, num_train=num_train, ranks=teacher.num_ranks, section="teacher")
