"""Whether files of each type can be made of a network, told before it is searched and not after."""

from collections.abc import Iterator

from torch import nn

from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.files.input_spec import InputSpec
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig


def export_notes(network: nn.Module, model: ModelConfig, data: DataSplits) -> Iterator[str]:
    """What cannot be made of a network of the user's own once the search is over.

    Args:
        network: on the CPU, in evaluation mode; left as it is.
        model: how it was built; those that we know are not tried.
        data: what it takes.
    """
    if not is_import_path(model.name):
        return
    from trainables.files.deployment import trace  # brings torch's compiler along, which takes a second

    try:
        trace(network, InputSpec.of(data), pixels="normalised")
    except InputError as error:
        yield f"files of the formats onnx, int8 and pt2 cannot be made of the network, native ones can: {error}"
