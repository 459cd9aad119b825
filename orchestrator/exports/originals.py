"""The networks that an export starts from: a candidate and its teacher, as the search left them, and the test images.

Shape legend: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from orchestrator.exports.card import NetworkFacts
from orchestrator.front.archive import Candidate
from orchestrator.searches.folder import read_teacher_result
from orchestrator.searches.layout import TEACHER, TEACHER_NETWORK, TEACHER_RESULT
from trainables.data_config import DataConfig
from trainables.datasets.images import ImageSet, Source
from trainables.errors import InputError
from trainables.files.checkpoint import SavedNetwork, load_network
from trainables.files.input_spec import InputSpec
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig
from trainables.networks.models import find_builder
from trainables.pruning.cost import count_macs, count_params
from trainables.stages.evaluation import class_scores, score, top5


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A search that is exported from.

    Attributes:
        folder: of the search; holds the networks of candidates and teacher.
        name: of the search.
        data: its data set.
        model: its network; the function is imported if it is the user's own.
        search_id: tells the search from others of its name; empty if it has none.
    """

    folder: Path
    name: str
    data: DataConfig
    model: ModelConfig
    search_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A network of the search, and what the search says of it.

    Attributes:
        saved: the network, in evaluation mode on the CPU.
        val_accuracy: on the validation images, in [0, 1].
        macs: multiply-accumulates for one image.
        params: number of parameters.
    """

    saved: SavedNetwork
    val_accuracy: float
    macs: int
    params: int

    def facts(self, logits_NK: torch.Tensor, images: ImageSet) -> NetworkFacts:
        """What a card says of it, by its logits on the test images."""
        labels = images.labels_N
        return NetworkFacts(
            test_accuracy=score(logits_NK, labels),
            val_accuracy=self.val_accuracy,
            macs=self.macs,
            params=self.params,
            test_top5=top5(logits_NK, labels),
            test_class_accuracies=class_scores(logits_NK, labels),
        )


def _load(folder: Path, model: ModelConfig, *, val_accuracy: float, macs: int, params: int) -> Original:
    builder = find_builder(model.name) if is_import_path(model.name) else None
    saved = load_network(folder, builder=builder)
    if replace(saved.model, weights=None) != replace(model, weights=None):
        raise InputError(
            f"{folder} holds a {saved.model.name} of width {saved.model.width:g}, but the search's network is "
            f"{model.name} of width {model.width:g}; give the configuration that the search was run with"
        )
    try:
        counted = count_macs(saved.network, saved.input.shape), count_params(saved.network)
    except InputError as error:  # widths that fit their tensors, but not one another
        raise InputError(f"{folder} is damaged: {error}") from error
    if counted != (macs, params):
        raise InputError(
            f"{folder} holds a network of {counted[0]:,} MACs and {counted[1]:,} parameters, but the search found "
            f"one of {macs:,} and {params:,}; the folder was changed or swapped with another"
        )
    return Original(saved=saved, val_accuracy=val_accuracy, macs=macs, params=params)


def load_candidate(candidate: Candidate, origin: Origin) -> Original:
    """The network of a candidate.

    Raises:
        InputError: if it is missing, damaged, or not what the search found.
    """
    return _load(
        origin.folder / candidate.network,
        origin.model,
        val_accuracy=candidate.val_accuracy,
        macs=candidate.macs,
        params=candidate.params,
    )


def load_teacher(origin: Origin) -> Original:
    """The teacher of a search.

    Raises:
        InputError: if it is missing, damaged, or not what the search trained.
    """
    folder = origin.folder / TEACHER
    path = folder / TEACHER_RESULT
    if not path.exists():
        raise InputError(f"{path} is missing; export from a search's own folder, with its teacher")
    result = read_teacher_result(path)
    return _load(
        folder / TEACHER_NETWORK,
        origin.model,
        val_accuracy=result.val_accuracy,
        macs=result.macs,
        params=result.params,
    )


def check_data(test: Source, spec: InputSpec) -> None:
    """Check that test images are such as a network takes.

    Raises:
        InputError: naming what differs.
    """
    shape = tuple(test.images.images_NCHW.shape[1:])
    if shape != spec.shape:
        raise InputError(f"test images have shape {shape}, but the network takes {spec.shape}; is it other data?")
    if test.class_names != spec.class_names:
        raise InputError(
            f"the data set has the classes {_some(test.class_names)}, but the network was trained on "
            f"{_some(spec.class_names)}; give the data set of the search"
        )
    if test.images.multi_label != spec.multi_label:
        raise InputError(
            f"a test image has {_labels(test.images.multi_label)}, but the network was trained on "
            f"{_labels(spec.multi_label)} an image; give the data set of the search"
        )


def _labels(multi_label: bool) -> str:  # noqa: FBT001 - reads as a phrase where it is called
    return "several labels" if multi_label else "one label"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")
