"""Which networks hold the contracts: each is checked, pruned by a cascade that trains, saved, read back and exported.

`python -m benchmarks networks` checks all of them and writes docs/networks.md. The tests check the contracts of most,
and all the rest on small ones of each family.
"""

import math
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.export import ExportedProgram

from benchmarks.noise import NUM_CLASSES, noise
from benchmarks.table import Row, machine
from orchestrator.exports.onnx_file import open_session, session_logits, write_onnx
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.files.checkpoint import load_network, save_network
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec
from trainables.files.programs import load_program, write_program
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import StagePlan
from trainables.pruning.contracts import Findings, check_contracts
from trainables.pruning.held import CLASS_SCORES
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.probe import TOLERANCE, draw_weights
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network of the table.

    Attributes:
        model: how it is built.
        size: pixels of an image, about as few as it takes.
        keep: layers that are left alone.
    """

    model: ModelConfig
    size: int = 32
    keep: tuple[str, ...] = ()


def vit_b_16(num_classes: int) -> nn.Module:
    """Torchvision's ViT-B/16 for images of 32 pixels; its own name builds it for 224."""
    network: nn.Module = torchvision.models.vit_b_16(num_classes=num_classes, image_size=32)
    return network


def _torchvision(*names: str, size: int = 32) -> dict[str, Network]:
    return {name: Network(model=ModelConfig(name=name), size=size) for name in names}


_RESNETS = ("resnet18", "resnet50")
NETWORKS: dict[str, Network] = {
    **{f"{name} (small images)": Network(model=ModelConfig(name=name)) for name in ("vgg16", *_RESNETS)},
    **_torchvision("resnet20", "resnet56"),
    **{name: Network(model=ModelConfig(name=name, stem="imagenet")) for name in _RESNETS},
    **_torchvision("resnet34", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "regnet_y_400mf"),
    **_torchvision("vgg11", "vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    "torchvision.models:vgg16": Network(model=ModelConfig(name="torchvision.models:vgg16")),
    **_torchvision("alexnet", size=64),
    **_torchvision("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0"),
    **_torchvision("efficientnet_b0", "efficientnet_v2_s", "densenet121", "squeezenet1_1", "googlenet"),
    **_torchvision("inception_v3", size=75),
    **_torchvision("shufflenet_v2_x1_0"),
    **_torchvision("convnext_tiny"),
    **_torchvision("swin_t"),
    "vit_b_16": Network(model=ModelConfig(name="benchmarks.networks:vit_b_16")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conformance:
    """What was seen of a network.

    Attributes:
        findings: what a search sees before it starts.
        macs: of the dense network, on one image.
        params: of the dense network.
        macs_asked: size that its cascade was asked for: without half of what can go.
        macs_kept: size of the level, after its cascade.
        exported: largest difference between the network and its `.pt2` file, relative to the scores.
        onnx: the same of ONNX Runtime; NaN where it was not tried.
        seconds: what building it and the check of its contracts took.
    """

    findings: Findings
    macs: int
    params: int
    macs_asked: float
    macs_kept: float
    exported: float
    onnx: float
    seconds: float

    @property
    def held(self) -> tuple[str, ...]:
        """Reasons for which channels other than the class scores stay whole."""
        return held(self.findings)


def held(findings: Findings) -> tuple[str, ...]:
    """Reasons for which channels other than the class scores stay whole."""
    return tuple(reason for reason in findings.channel_map.held.values() if reason != CLASS_SCORES)


def contracts(network: Network) -> tuple[nn.Module, Findings]:
    """A network as it is built, and what a search sees of it before it starts.

    Raises:
        InputError: if it does not hold a contract.
    """
    dense = build(network.model, num_classes=NUM_CLASSES, in_channels=3, seed=0)
    shape = (3, network.size, network.size)
    return dense, check_contracts(dense, shape, pruning=Pruning(keep=network.keep))


def conformance(network: Network, *, onnx: bool) -> Conformance:  # noqa: FBT001
    """Do with a network all that a search and an export do.

    Raises:
        InputError: if it does not hold a contract.
        StageFailure: if its cascade fails.
        AssertionError: if what is read back or exported gives other scores.
    """
    data = noise((8, 4), network.size)  # two training batches of four, and one for validation
    started = time.perf_counter()
    dense, findings = contracts(network)
    seconds = time.perf_counter() - started
    # As if it were trained: torchvision's ViT has a head of zeros, and ConvNeXt's branches begin at a millionth.
    draw_weights(dense, torch.Generator().manual_seed(0))
    size = NetworkSize.count(dense, data.input_shape)
    macs_asked = (1 + findings.smallest) / 2
    stage = cascade(dense, data, macs_asked, size, network.keep)
    narrow = stage.levels[0].network.eval().requires_grad_(requires_grad=False)
    images_NCHW = torch.randn(3, *data.input_shape, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        scores_NK = narrow(images_NCHW)
        check_reading_back(Path(folder) / "network", narrow, network, data, images_NCHW)
        traced = trace(narrow, _spec(images_NCHW), pixels="normalised")
        return Conformance(
            findings=findings,
            macs=size.macs,
            params=size.params,
            macs_asked=macs_asked,
            macs_kept=stage.results[0].macs_kept,
            exported=relative(program_scores(traced, images_NCHW, Path(folder)), scores_NK),
            onnx=relative(onnx_scores(traced, images_NCHW, Path(folder)), scores_NK) if onnx else math.nan,
            seconds=seconds,
        )


def cascade(
    dense: nn.Module, data: DataSplits, macs_kept: float, size: NetworkSize, keep: tuple[str, ...]
) -> CascadeStage:
    """A cascade of one level, run to its end; it fails by itself where saliency is zero or a size is missed."""
    stage = CascadeStage(
        dense,
        plan=StagePlan(name="cascade", levels=(1,), epochs=2, first_epoch=0),
        config=CascadeConfig(
            macs_kept=(macs_kept,),
            pruning=Pruning(num_prunings=2, keep=keep),
            recipe=Recipe(epochs=2, batch_size=4, learning_rate=1e-3, max_grad_norm=1.0),
        ),
        teacher_size=size,
        data=data,
    )
    while not stage.finished:
        stage.train_epoch()
    return stage


@torch.no_grad()
def check_reading_back(
    folder: Path, narrow: nn.Module, network: Network, data: DataSplits, images_NCHW: torch.Tensor
) -> None:
    """Save and load: the same scores, bit for bit."""
    save_network(folder, narrow, model=network.model, input_spec=InputSpec.of(data))
    builder = None
    if ":" in network.model.name:
        builder = partial(build_dense, network.model)
    again = load_network(folder, builder=builder).network
    assert torch.equal(again(images_NCHW), narrow(images_NCHW)), "what is read back gives other scores"


def build_dense(model: ModelConfig, num_classes: int) -> nn.Module:
    """Build a network that is named by an import path, as its user would."""
    return build(model, num_classes=num_classes, in_channels=3)


def program_scores(traced: ExportedProgram, images_NCHW: torch.Tensor, folder: Path) -> torch.Tensor:
    """What a `.pt2` file gives, batch norm folded, for another number of images than was traced."""
    write_program(traced, folder / "model.pt2")
    scores_NK: torch.Tensor = load_program(folder / "model.pt2")(images_NCHW)
    return scores_NK


def onnx_scores(traced: ExportedProgram, images_NCHW: torch.Tensor, folder: Path) -> torch.Tensor:
    """What ONNX Runtime gives."""
    write_onnx(traced, folder / "model.onnx")
    return session_logits(open_session(folder / "model.onnx", num_threads=1), [images_NCHW])


def _spec(images_NCHW: torch.Tensor) -> InputSpec:
    names = tuple(str(label) for label in range(NUM_CLASSES))
    size = images_NCHW.shape[-1]
    return InputSpec(channels=3, image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=names)


def relative(found_NK: torch.Tensor, wanted_NK: torch.Tensor) -> float:
    """Largest difference, relative to the largest score."""
    return float((found_NK - wanted_NK).abs().max() / wanted_NK.abs().max())


def contract_cells(name: str, findings: Findings) -> tuple[str, str]:
    """Of a network's row, what its contracts say on every machine: what stands before and after the difference."""
    groups = f"{len(findings.channel_map.groups)}" + (f" (+ {len(held(findings))} whole)" if held(findings) else "")
    return f"| `{name}` | {NETWORKS[name].size} | {groups} |", f"| {100 * findings.smallest:.2f} % |"


def page(seen: dict[str, Conformance]) -> str:
    """The table as Markdown."""
    lines = [
        "# Networks",
        "",
        "Written by `python -m benchmarks networks`, which checks each network as a search does, prunes half of the",
        "MACs that can go in a short cascade on images of noise, saves it, reads it back bit for bit, and exports it.",
        "*Gated − narrow* is the largest difference between the scores of the dense network with some of its channels",
        "silenced and the network without them, relative to what silencing changes. *Smallest* is what is left of the",
        "MACs when each group keeps one channel. The last two are the largest differences of the scores after",
        "`torch.export` and in ONNX Runtime. [Networks of timm](timm.md) have a page of their own.",
        "",
        "| network | pixels | groups | gated − narrow | smallest | MACs kept | export | ONNX |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in seen.items():
        start, smallest = contract_cells(name, found.findings)
        lines.append(
            f"{start} {found.findings.difference:.0e} {smallest} {100 * found.macs_kept:.1f} % | {found.exported:.0e} "
            f"| {found.onnx:.0e} |"
        )
    lines += ["", "Channels that stay whole:", ""]
    for name, found in seen.items():
        if found.held:
            lines.append(f"- `{name}`: {found.held[0]}" + ("; and the like" if len(found.held) > 1 else ""))
    return "\n".join([*lines, "", f"Last written on {machine()}.", ""])


def run() -> list[Row]:
    """Check all of them and write the page."""
    torch.set_num_threads(1)
    seen: dict[str, Conformance] = {}
    rows = []
    for name, network in NETWORKS.items():
        found = seen[name] = conformance(network, onnx=True)
        print(f"networks: {name}, checked in {found.seconds:.1f} s", file=sys.stderr)
        rows.append(
            Row(
                name=f"{name}: gated network − narrow network",
                figure=found.findings.difference,
                rule="at most",
                target=TOLERANCE,
                note=f"{found.macs / 1e6:.4g} M MACs, {found.macs_kept:.3f} kept, "
                f"{found.params / 1e6:.3g} M parameters, ONNX differs by {found.onnx:.0e}, "
                f"checked in {found.seconds:.1f} s",
            )
        )
    PAGE.write_text(page(seen))
    return rows
