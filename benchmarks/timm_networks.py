"""Which networks of timm hold the contracts: `pip install timm`, then `python -m benchmarks.timm_networks`.

Each is checked, pruned, saved, read back and exported as torchvision's are (`benchmarks.networks`), and docs/timm.md is
written. Where some of a network's channels must stay whole, as the refusal says, they are named and it is tried again.
"""

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from benchmarks.networks import Conformance, Network, conformance
from benchmarks.table import machine
from trainables.errors import InputError
from trainables.model_config import ModelConfig

PAGE = Path(__file__).parents[1] / "docs" / "timm.md"
# One of each kind that differs in what stands between its layers, by the pixels that it is given.
_BY_SIZE = {
    64: (
        "resnet18 resnet26d resnetblur50 resnetaa50 resnetv2_50 resnet50_gn resnext26ts seresnet50 seresnext26d_32x4d "
        "ecaresnet26t gcresnext26ts skresnet18 res2net50_26w_4s resnest14d cspresnet50 cspdarknet53 darknet53 gernet_s "
        "regnetx_002 regnety_002 regnetz_b16 dla34 dpn48b densenet121 hrnet_w18_small hgnet_tiny hgnetv2_b0 "
        "selecsls42b ese_vovnet19b_dw nf_resnet26 dm_nfnet_f0 rdnet_tiny repvgg_a0 repghostnet_050 mobileone_s0 "
        "repvit_m0_9 fastvit_t8 starnet_s1 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small "
        "mobilenetv4_hybrid_medium mnasnet_small fbnetc_100 lcnet_050 tinynet_e efficientnet_lite0 tf_efficientnet_b0 "
        "tf_efficientnetv2_b0 mixnet_s ghostnet_100 ghostnetv2_100 hardcorenas_a rexnet_100 convnext_atto "
        "convnextv2_atto inception_next_atto edgenext_xx_small poolformer_s12 mobilevit_xxs mobilevitv2_050 "
        "mambaout_femto"
    ),
    96: "vgg11_bn inception_v4 xception41",
    224: "vit_tiny_patch16_224 coatnet_nano_rw_224 efficientformer_l1 levit_128s",
    256: "botnet26t_256",
}
NAMES = {name: size for size, names in _BY_SIZE.items() for name in names.split()}
_MEND = re.compile(r"with cascade\.pruning\.keep=\[(.*)\] the rest holds")


def __getattr__(name: str) -> Callable[[int], nn.Module]:
    """Find a network of timm by its name, as a search finds one in a module of the user's own."""
    if name.startswith("_"):
        raise AttributeError(name)
    timm = importlib.import_module("timm")

    def build(num_classes: int) -> nn.Module:
        network: nn.Module = timm.create_model(name, num_classes=num_classes)
        return network

    return build


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of a network: what it came to with what was kept for it, or why it is refused."""

    kept: tuple[str, ...] = ()
    found: Conformance | None = None
    refusal: str = ""


def look(name: str, size: int) -> Seen:
    """Do with a network all that a search and an export do; once more with what the refusal says is to be kept."""
    network = Network(model=ModelConfig(name=f"benchmarks.timm_networks:{name}"), size=size)
    try:
        return Seen(found=conformance(network, onnx=False))
    except InputError as error:
        mend = _MEND.search(str(error))
        if mend is None:
            return Seen(refusal=str(error))
    kept = tuple(mend[1].split(", "))
    try:
        return Seen(kept=kept, found=conformance(replace(network, keep=kept), onnx=False))
    except InputError as error:
        return Seen(refusal=str(error))


def page(seen: dict[str, Seen]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Networks of timm",
        "",
        f"Written by `python -m benchmarks.timm_networks` with timm {version('timm')}, which does with each network",
        "what [`python -m benchmarks networks`](networks.md) does with torchvision's; that page explains the columns.",
        "*Whole* counts layers and groups whose channels stay as they are.",
        "",
        "| network | pixels | groups | whole | gated − narrow | smallest | MACs kept | export |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in seen.items():
        if one.found is not None:
            found = one.found
            lines.append(
                f"| `{name}`{'*' if one.kept else ''} | {NAMES[name]} | {len(found.findings.channel_map.groups)} "
                f"| {len(found.held)} | {found.findings.difference:.0e} | {100 * found.findings.smallest:.2f} % "
                f"| {100 * found.macs_kept:.1f} % | {found.exported:.0e} |"
            )
    lines += ["", "Those with a star are refused as they are, and hold with `cascade.pruning.keep`:", ""]
    lines += [f"- `{name}`: `[{', '.join(one.kept)}]`" for name, one in seen.items() if one.kept and one.found]
    lines += ["", "Refused before a search starts:", ""]
    lines += [f"- `{name}`: {one.refusal}" for name, one in seen.items() if one.found is None]
    return "\n".join([*lines, "", f"Last written on {machine()}.", ""])


def main() -> None:
    """Look at all of them, or at those that are named, and write the page of all."""
    torch.set_num_threads(1)
    seen = {}
    for name in sys.argv[1:] or NAMES:
        one = seen[name] = look(name, NAMES[name])
        said = one.refusal if one.found is None else f"holds, checked in {one.found.seconds:.1f} s"
        print(f"{name}: {said}", flush=True)
    if len(seen) == len(NAMES):
        PAGE.write_text(page(seen))


if __name__ == "__main__":
    main()
