"""A network as it is deployed: traced for any number of images, batch norm folded, normalisation inside if wanted.

Shape legend: N images, C channels, H height, W width.
"""

from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from trainables.data_config import Pixels
from trainables.datasets.data import normalise
from trainables.errors import InputError, first_line
from trainables.files.input_spec import InputSpec

_CONVOLUTIONS = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default)
_BATCH_NORM = torch.ops.aten.batch_norm.default
_FIRST_BATCHES, _BATCH_SIZE = (1, 3), 64
_NOT_BIAS = 2  # arguments of a convolution before its bias
_CONSTRAINED = "Constraints violated (batch)"  # torch's words for a network that does not take any number of images
# What a trace notes of where each step came from: paths of this machine, of no use elsewhere.
_ORIGINS = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node")


class TakesPixels(nn.Module):
    """A network with the normalisation of its images inside."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        """Wrap a network; it is shared, not copied.

        Args:
            network: takes normalised images.
            spec: says how they are normalised.
        """
        super().__init__()
        self.network = network
        # As `normalise` computes it, in one multiplication and one addition.
        scale = torch.tensor([1 / (255 * std) for std in spec.std]).view(-1, 1, 1)
        shift = torch.tensor([-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]).view(-1, 1, 1)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Class scores of uint8 pixels, 0 … 255."""
        scores: torch.Tensor = self.network(pixels_NCHW.to(torch.float32) * self.scale + self.shift)
        return scores


def as_taken(pixels_NCHW: torch.Tensor, spec: InputSpec, pixels: Pixels) -> torch.Tensor:
    """Uint8 images as a deployed network takes them."""
    return pixels_NCHW if pixels == "raw" else normalise(pixels_NCHW, spec.mean, spec.std)


def batches(images_NCHW: torch.Tensor, spec: InputSpec, pixels: Pixels) -> Iterator[torch.Tensor]:
    """All images in order, as a deployed network takes them, in batches of 1, 3, 64, 64, … and what is left.

    One image is what runtimes treat apart, and three are an odd number.
    """
    for size in _FIRST_BATCHES:
        if len(images_NCHW):
            yield as_taken(images_NCHW[:size], spec, pixels)
        images_NCHW = images_NCHW[size:]
    for start in range(0, len(images_NCHW), _BATCH_SIZE):
        yield as_taken(images_NCHW[start : start + _BATCH_SIZE], spec, pixels)


def logits_of(network: nn.Module, images_NCHW: torch.Tensor, spec: InputSpec, pixels: Pixels) -> torch.Tensor:
    """Class scores, float32 of shape (N, K), of uint8 images, in a network on the CPU in evaluation mode."""
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in batches(images_NCHW, spec, pixels)])


def trace(network: nn.Module, spec: InputSpec, *, pixels: Pixels) -> ExportedProgram:
    """Trace a network with `torch.export` for any number of images, and fold each batch norm into its convolution.

    Args:
        network: on the CPU, in evaluation mode; left as it is.
        spec: what it takes.
        pixels: what the program takes.

    Returns:
        A program of one input and one output that says nothing of the machine it was made on.

    Raises:
        InputError: if the network's forward pass cannot be traced.
    """
    module: nn.Module = TakesPixels(network, spec).eval() if pixels == "raw" else network
    try:
        # What torch prints of a network that it cannot trace is a page of its graph; the error says why.
        with redirect_stderr(StringIO()), torch.no_grad():
            program = _export(module, spec, pixels)
            folded = program.module(check_guards=False)
            assert isinstance(folded, fx.GraphModule)
            if fold_batch_norms(folded):
                program = _export(folded, spec, pixels)
    except Exception as error:  # a forward pass may raise anything at what stands for any number of images
        raise InputError(
            f"this {type(network).__name__} cannot be traced ({_why_not(error)}; mend it, or export with "
            "--formats native"
        ) from error
    for node in program.graph.nodes:
        for key in _ORIGINS:
            node.meta.pop(key, None)
    return program


def _export(module: nn.Module, spec: InputSpec, pixels: Pixels) -> ExportedProgram:
    # Two images: with one, the batch would be taken for a constant.
    images = torch.zeros(2, *spec.shape, dtype=torch.uint8 if pixels == "raw" else torch.float32)
    return torch.export.export(module, (images,), dynamic_shapes=({0: Dim("batch")},))


def _why_not(error: BaseException) -> str:
    """Why a network cannot be traced, and the rule that it breaks."""
    why = reason(error)
    if _CONSTRAINED in why:
        return (
            "it does not take any number of images); its forward pass must take their number as x.shape[0], not as "
            "len(x) or int(x.shape[0]), and decide nothing by it"
        )
    return f"{why}); its forward pass must not depend on the images' values or on their number"


def reason(error: BaseException) -> str:
    """First line of what went wrong at the bottom; the exporter's own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold each batch norm that follows a convolution, and nothing else does, into the convolution's weights.

    Args:
        module: a traced network in evaluation mode; it is changed.

    Returns:
        How many were folded.
    """
    pairs = list(_foldable(module.graph))
    for number, (convolution, norm) in enumerate(pairs):
        _fold(module, convolution, norm, number)
    if pairs:
        module.graph.eliminate_dead_code()
        _drop_unused(module)
        module.recompile()
    return len(pairs)


def _foldable(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    for norm in graph.nodes:
        if norm.op != "call_function" or norm.target is not _BATCH_NORM:
            continue
        convolution, mean, training = norm.args[0], norm.args[3], norm.args[5]
        if training or mean is None or convolution.target not in _CONVOLUTIONS or len(convolution.users) > 1:
            continue
        if all(node is None or node.op == "get_attr" for node in (*convolution.args[1:3], *norm.args[1:5])):
            yield convolution, norm


def _fold(module: fx.GraphModule, convolution: fx.Node, norm: fx.Node, number: int) -> None:
    # In double precision, so that folding rounds once.
    weight, bias = (_value(module, convolution, index) for index in (1, 2))
    gain, offset, mean, variance = (_value(module, norm, index) for index in (1, 2, 3, 4))
    assert weight is not None
    assert mean is not None
    assert variance is not None
    factor = (variance + float(norm.args[7])).rsqrt()  # type: ignore[arg-type]
    if gain is not None:
        factor = factor * gain
    shift = -mean * factor if bias is None else (bias - mean) * factor
    if offset is not None:
        shift = shift + offset
    folded = {"weight": weight * factor.view(-1, *[1] * (weight.ndim - 1)), "bias": shift}
    with module.graph.inserting_before(convolution):
        nodes = []
        for name, tensor in folded.items():
            attribute = f"folded_{number}_{name}"
            parameter = nn.Parameter(tensor.to(torch.float32), requires_grad=False)
            module.register_parameter(attribute, parameter)
            nodes.append(module.graph.get_attr(attribute))
    convolution.args = (convolution.args[0], *nodes, *convolution.args[_NOT_BIAS + 1 :])
    norm.replace_all_uses_with(convolution)
    module.graph.erase_node(norm)


def _value(module: fx.GraphModule, node: fx.Node, index: int) -> torch.Tensor | None:
    given = node.args[index] if index < len(node.args) else None
    if given is None:
        return None
    assert isinstance(given, fx.Node)
    owner, _, name = str(given.target).rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(owner), name)
    return tensor.detach().to(torch.float64)


def _drop_unused(module: fx.GraphModule) -> None:
    """Take out tensors that no step reads any more: they would stay in the file."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for owner_name, owner in list(module.named_modules()):
        prefix = f"{owner_name}." if owner_name else ""
        for tensors in (owner._parameters, owner._buffers):
            for name in [name for name in tensors if f"{prefix}{name}" not in used]:
                delattr(owner, name)
