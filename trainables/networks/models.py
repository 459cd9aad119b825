"""Networks by name: small-image VGGs and ResNets, torchvision's, or a function of the user's own."""

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from trainables.errors import InputError, first_line
from trainables.imports import import_function, is_import_path
from trainables.model_config import ModelConfig
from trainables.networks.vggs import VGGS

Builder = Callable[..., nn.Module]

# Heads that are there for training alone, and slow draws of weights that batch norm makes pointless.
_INCEPTION = {"aux_logits": False, "init_weights": False}
_TORCHVISION_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_RESNETS = ("resnet18", "resnet20", "resnet50", "resnet56")
BUILT_IN = (*VGGS, *_RESNETS)

# Hooks that compute a layer's weight anew in each pass, from parameters of other names; and what takes them away.
_COMPUTING = {
    WeightNorm: "torch.nn.utils.remove_weight_norm",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm",
    BasePruningMethod: "torch.nn.utils.prune.remove",
}


def build(config: ModelConfig, *, num_classes: int, in_channels: int, seed: int = 0) -> nn.Module:
    """Build a network by its configuration, with random weights drawn from `seed`.

    Raises:
        InputError: for an unknown name, or a user's function that is missing, fails, or does not give a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # networks are built on the CPU; other devices' states stay
        if config.name in VGGS:
            return VGGS[config.name](num_classes=num_classes, in_channels=in_channels, width=config.width)
        if config.name in _RESNETS:
            from trainables.networks.resnets import RESNETS

            return RESNETS[config.name](
                num_classes=num_classes, in_channels=in_channels, width=config.width, stem=config.stem
            )
        if not is_import_path(config.name) and _is_torchvisions(config.name):
            return _from_torchvision(config, num_classes=num_classes, in_channels=in_channels)
        return call_builder(find_builder(config.name), num_classes=num_classes, in_channels=in_channels)


# Torchvision takes a second to import, as it brings torch's compiler along; most processes do without it.


def _is_torchvisions(name: str) -> bool:
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(config: ModelConfig, *, num_classes: int, in_channels: int) -> nn.Module:
    others = f"use one of {', '.join(BUILT_IN)}, or your own function"
    if in_channels != 3:
        channels = "1 channel" if in_channels == 1 else f"{in_channels} channels"
        raise InputError(f"images have {channels}, but {config.name} is torchvision's and takes 3; {others}")
    if config.width != 1.0:
        raise InputError(
            f"model.width is {config.width!r}, but {config.name} is torchvision's, whose width is 1; leave model.width "
            f"out, or {others}"
        )
    import torchvision

    options = _TORCHVISION_OPTIONS.get(config.name, {})
    network: nn.Module = torchvision.models.get_model(config.name, num_classes=num_classes, **options)
    return network


def find_builder(name: str) -> Builder:
    """Import a user's function `package.module:function`.

    Raises:
        InputError: if the name is neither built in nor such a path, or nothing callable is there.
    """
    if not is_import_path(name):
        raise InputError(
            f"model.name is {name!r}, but must be one of {', '.join(BUILT_IN)}, a classification network of "
            "torchvision by its name there, or your own function as package.module:function"
        )
    return import_function(name, key="model.name")


def call_builder(builder: Builder, *, num_classes: int, in_channels: int) -> nn.Module:
    """Call a user's function with `num_classes`, and `in_channels` if it takes that.

    Raises:
        InputError: if it fails or gives something else than a network whose layers can be seen and changed.
    """
    arguments = {"num_classes": num_classes}
    if "in_channels" in inspect.signature(builder).parameters:
        arguments["in_channels"] = in_channels
    try:
        network = builder(**arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"model.name: your function failed with {reason}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model.name: your function gave a {type(network).__name__}, but must give an nn.Module")
    _check_kind(network)
    _check_tensors(network)
    return network


def _check_kind(network: nn.Module) -> None:
    """Refuse what only runs: layers inside are not seen, or can be neither copied nor trained; and what takes more."""
    for name, part in network.named_modules():
        gave = f"model.name: your function gave a {type(part).__name__}" + (f" as the part {name}" if name else "")
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(f"{gave}, but must give a Python module, as it was before torch.jit; give that one")
        # Asked by their marks: to import torch's compiler for its class takes seconds.
        if isinstance(part._modules.get("_orig_mod"), nn.Module) or part._compiled_call_impl is not None:
            raise InputError(
                f"{gave}, which is compiled, but must give the network itself (network._orig_mod of what torch.compile "
                "gave, no call of network.compile()); execution: compile in a recipe lets training compile it"
            )
    try:
        network.train(network.training)
    except NotImplementedError as error:
        raise InputError(
            f"model.name: your function gave a {type(network).__name__}, which cannot be trained "
            f"({first_line(error)}); give the Python module itself and not what torch.export made of it"
        ) from error
    try:
        inspect.signature(network.forward).bind("images")
    except TypeError as error:
        raise InputError(
            f"model.name: your function gave a {type(network).__name__}, whose forward must take images alone, but "
            f"cannot ({error}); give its other arguments defaults"
        ) from error


def _check_tensors(network: nn.Module) -> None:
    """Refuse tensors of another type or without a size, and those that are computed from parameters."""
    for name, layer in network.named_modules():
        where = f"model.name: layer {name or type(layer).__name__} of your function's network"
        tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        if any(is_lazy(tensor) for _, tensor in tensors):
            raise InputError(
                f"{where} is a {type(layer).__name__}, but must have its size from the start; give it, or run the "
                "network once on images of zeros before your function returns it"
            )
        for key, tensor in tensors:
            if tensor.is_floating_point() and tensor.dtype not in _types(layer, tensor):
                raise InputError(
                    f"{where} has {key} of {tensor.dtype}, but it must be of torch.float32; call .float() on the "
                    "network and leave out casts; precision: bf16 in a recipe trains it in bfloat16"
                )
        for hook in layer._forward_pre_hooks.values():
            mend = next((mend for kind, mend in _COMPUTING.items() if isinstance(hook, kind)), None)
            if mend is not None:
                raise InputError(
                    f"{where} computes its weights anew in each pass, by a hook of {type(hook).__name__}, but they "
                    f"must be parameters of its own; make them so with {mend}"
                )
    computed = computed_attribute(network)
    if computed is not None:
        raise InputError(
            f"model.name: layer {computed[0]} of your function's network has {computed[1]}, which was computed from "
            "parameters as it was built, and so cannot be copied; compute it in the forward pass"
        )


def _types(layer: nn.Module, tensor: torch.Tensor) -> tuple[torch.dtype, ...]:
    """Types of a floating tensor: what is trained or measured is float32, a constant may be what NumPy knows."""
    if isinstance(tensor, nn.Parameter) or isinstance(layer, _BatchNorm):
        return (torch.float32,)
    return (torch.float32, torch.float64, torch.float16)


def require_real_parameters(network: nn.Module) -> None:
    """Check that parameters are real numbers, of which alone gradients and saliency are made.

    Raises:
        InputError: naming the first one that is not, and what to make of it.
    """
    for name, parameter in network.named_parameters():
        if not parameter.is_floating_point():
            layer, _, key = name.rpartition(".")
            real = "torch.view_as_complex makes real ones complex in the forward pass"
            raise InputError(
                f"model.name: layer {layer or type(network).__name__} of your function's network has the parameter "
                f"{key} of {parameter.dtype}, but parameters must be of torch.float32; "
                + (real if parameter.is_complex() else "register it as a buffer")
            )


def frozen_parameters(network: nn.Module) -> frozenset[str]:
    """Names of parameters that take no gradient; none where none takes any, as of a teacher that is only asked."""
    frozen = frozenset(name for name, parameter in network.named_parameters() if not parameter.requires_grad)
    return frozen if any(parameter.requires_grad for parameter in network.parameters()) else frozenset()


def shared_parameters(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of parameters that stand at another place, too, each with the first name of what stands there."""
    first: dict[nn.Parameter, str] = {}
    for layer_name, layer in network.named_modules():
        for name, parameter in layer.named_parameters(prefix=layer_name, recurse=False):
            other = first.setdefault(parameter, name)
            if other != name:
                yield name, other


def computed_attribute(network: nn.Module) -> tuple[str, str] | None:
    """The first layer that holds a tensor which was computed from parameters, and its attribute; it cannot be copied.

    Lists and dicts are looked into. The tensor's graph goes on to hold each parameter by the shape it had.
    """
    for name, layer in network.named_modules():
        for key, value in vars(layer).items():
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            if any(isinstance(one, torch.Tensor) and not one.is_leaf for one in values):
                return name or type(layer).__name__, key
    return None
