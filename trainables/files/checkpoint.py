"""Networks on disk: safetensors and JSON, so that loading runs no code from the file.

A network is a folder with `architecture.json` (how to build it, and its widths) and `weights.safetensors`.
"""

import copy
import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import nn

from trainables.errors import InputError, first_line
from trainables.files.input_spec import InputSpec
from trainables.files.known_scores import known_scores, require_known_scores
from trainables.files.states import on_cpu
from trainables.files.whole import settle, unfinished
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig
from trainables.networks.given_weights import check_shapes, versioned
from trainables.networks.models import Builder, build, call_builder, shared_parameters
from trainables.pruning.channels import network_widths, resize

if TYPE_CHECKING:  # of the files that train, so that reading a network takes torch and safetensors alone
    from trainables.tensors import Tensors

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "weights.safetensors"
FORMAT = "cascade-network"
FORMAT_VERSION = 1
PROGRAM_SUFFIX = ".pt2"

_MOST_ARCHITECTURE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedNetwork:
    """A network that was read back, and what was saved with it."""

    network: nn.Module
    model: ModelConfig
    input: InputSpec


def save_network(folder: Path, network: nn.Module, *, model: ModelConfig, input_spec: InputSpec) -> None:
    """Write a network; the folder appears whole or not at all, even if the machine stops meanwhile.

    Raises:
        InputError: if the folder is there already.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already; choose another place or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{unfinished(folder)}-", dir=folder.parent))
    try:
        aside.chmod(0o755)
        # A teacher's own file is no part of the network, and its path is nobody else's business.
        model = dataclasses.replace(model, weights=None)
        architecture = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "model": model.to_dict(),
            "input": dataclasses.asdict(input_spec),
            "widths": network_widths(network),
        }
        if is_import_path(model.name):
            architecture["scores"] = known_scores(network, input_spec.shape)
        (aside / ARCHITECTURE_FILE).write_text(json.dumps(architecture, indent=1) + "\n", encoding="utf-8")
        save_file(on_cpu(network.state_dict()), aside / WEIGHTS_FILE)
        (aside / WEIGHTS_FILE).chmod(0o644)
        for path in (aside / ARCHITECTURE_FILE, aside / WEIGHTS_FILE, aside):
            settle(path)
        aside.rename(folder)
        settle(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load(path: Path | str, *, builder: Builder | None = None) -> nn.Module:
    """Read a network back as an `nn.Module` in evaluation mode, on the CPU. Nothing is unpickled or imported.

    That of a folder may be trained further: its parameters take gradients.

    Args:
        path: folder with `architecture.json` and `weights.safetensors`; or a `.pt2` file of an export.
        builder: for a network of your own in such a folder, the function that was named in `model.name`.

    Raises:
        InputError: if a file is missing, damaged, holds what it should not, or the two do not fit each other.
    """
    if Path(path).suffix == PROGRAM_SUFFIX:
        from trainables.files.programs import load_program  # takes a second to import

        return load_program(Path(path))
    network = load_network(path, builder=builder).network
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return network


def load_network(path: Path | str, *, builder: Builder | None = None) -> SavedNetwork:
    """Read a network, frozen, with its description; see `load`."""
    folder = Path(path)
    architecture = _read_architecture(folder / ARCHITECTURE_FILE)
    try:
        model = ModelConfig.from_dict(architecture["model"])
        spec = InputSpec.from_dict(architecture["input"])
        widths = {name: _pair(pair) for name, pair in architecture["widths"].items()}
        known = _scores(architecture.get("scores"), spec)  # networks from before there were any lack them
        network = _build_dense(model, spec, builder)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder / ARCHITECTURE_FILE} is damaged: {type(error).__name__}: {first_line(error)}"
        ) from error
    dense = network_widths(network)
    for name, (num_out, num_in) in widths.items():
        if name in dense and not (0 < num_out <= dense[name][0] and 0 < num_in <= dense[name][1]):
            raise InputError(f"{folder}: layer {name} cannot have widths {num_out}, {num_in}; the file is damaged")
    resize(network, widths)
    _check_scores(network, spec, str(folder))
    weights = _read_weights(folder / WEIGHTS_FILE, network)
    network = _given(network, weights, str(folder / WEIGHTS_FILE))
    if known is not None and is_import_path(model.name):
        require_known_scores(network, spec.shape, known, where=str(folder), name=model.name)
    return SavedNetwork(network=network, model=model, input=spec)


def rebuild(network: nn.Module, *, model: ModelConfig, input_spec: InputSpec, builder: Builder | None) -> nn.Module:
    """The network that `load` would give of this one once it is saved, by the same steps without a file.

    Args:
        network: as it was built, on the CPU; it is left as it was, and shares its tensors.
        model: how it was built.
        input_spec: what it takes.
        builder: as `load` takes it.

    Raises:
        InputError: if it could not be saved, or not be read.
    """
    again = _build_dense(model, input_spec, builder)
    _check_scores(again, input_spec, "built a second time")
    weights = dict(network.state_dict())
    check_shapes(weights, again, where="what state_dict() gives")
    try:
        save(on_cpu({name: tensor.flatten()[:1] for name, tensor in weights.items()}))  # a little of each kind
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"what state_dict() gives cannot be written as safetensors: {first_line(error)}") from error
    return _given(again, weights, "what state_dict() gives")


def _given(network: nn.Module, weights: "Tensors", where: str) -> nn.Module:
    """The network with these tensors for its own, as it is used."""
    for name, tensor in network.state_dict().items():
        if weights[name].dtype != tensor.dtype:
            raise InputError(f"{where} has {name} as {weights[name].dtype}, but it must be {tensor.dtype}")
    shared = list(shared_parameters(network))
    network.load_state_dict(versioned(weights, network), assign=True)
    for name, other in shared:  # each has got a tensor of its own
        layer, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(layer), attribute, network.get_parameter(other))
    return network.eval().requires_grad_(requires_grad=False)


def _pair(value: object) -> tuple[int, int]:
    match value:
        case [int(num_out), int(num_in)] if bool not in (type(num_out), type(num_in)):
            return num_out, num_in
    raise ValueError(f"widths are two whole numbers, but one is {value!r}")


def _scores(value: object, spec: InputSpec) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != spec.num_classes:
        raise ValueError(f"scores are {spec.num_classes} numbers, but are {value!r}")
    return [float(score) for score in value]


def _check_scores(network: nn.Module, spec: InputSpec, where: str) -> None:
    """Refuse layers that do not fit one another, or scores that do not fit the class names; nothing is computed."""
    try:
        with torch.no_grad():
            scores = copy.deepcopy(network).to("meta").eval()(torch.zeros(2, *spec.shape, device="meta"))
    except Exception as error:
        raise InputError(f"{where}: the network's layers do not fit one another: {first_line(error)}") from error
    if scores.shape != (2, spec.num_classes):
        raise InputError(f"{where}: the network gives {scores.shape[-1]} scores, but names {spec.num_classes} classes")


def _build_dense(model: ModelConfig, spec: InputSpec, builder: Builder | None) -> nn.Module:
    if is_import_path(model.name):
        if builder is None:
            raise InputError(
                f"the network was built by {model.name}, which is not imported from a file's word; "
                "import it yourself and give it: load(path, builder=function)"
            )
        return call_builder(builder, num_classes=spec.num_classes, in_channels=spec.channels)
    try:
        with torch.device("meta"):  # no weights are made only to be thrown away
            return build(model, num_classes=spec.num_classes, in_channels=spec.channels)
    except NotImplementedError:  # some of torchvision's compute their widths with tensors
        return build(model, num_classes=spec.num_classes, in_channels=spec.channels)


def _read_architecture(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() and path.exists():
            raise InputError(f"{path} is damaged: it is no regular file")
        if path.stat().st_size > _MOST_ARCHITECTURE_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, but describes one network in a few thousand")
        architecture = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; a network is a folder with it and {WEIGHTS_FILE}") from error
    except NotADirectoryError as error:
        raise InputError(
            f"{path.parent} is a file, but a network is a folder with {path.name} and {WEIGHTS_FILE}; give the folder"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(architecture, dict) or architecture.get("format") != FORMAT:
        raise InputError(f"{path} does not describe a network of this project")
    if architecture.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {architecture.get('version')!r}, but this program reads {FORMAT_VERSION}"
        )
    return architecture


def _read_weights(path: Path, network: nn.Module) -> "Tensors":
    """Tensors of a file, of which names and shapes are compared with the network's before any is read."""
    try:
        if not path.is_file() and path.exists():
            raise InputError(f"{path} is damaged: it is no regular file")
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
        check_shapes(shapes, network, where=str(path))
        # Copies lie where torch puts its tensors; at another place some processors' kernels round in another way, and
        # the network read back would not be the one that was saved to the last bit.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} is damaged or no safetensors file: {first_line(error)}") from error
