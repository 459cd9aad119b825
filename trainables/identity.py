"""What determines a stage's result, and the digest of it, so that a stage that is done is known again.

Everything counts that could change a weight: the network that the stage starts from, the images, the recipe, the sizes,
the seed, and the code that trains, the user's own functions included. What only decides where or how fast it runs
(device, threads, the trial's number) does not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.imports import import_module, is_import_path
from trainables.model_config import ModelConfig
from trainables.plan import StagePlan
from trainables.pruning.cost import LatencyTable
from trainables.recipe import Recipe
from trainables.tensors import tensors_digest

Identity = Mapping[str, Any]
"""Plain values that determine a stage's result."""

# Files of the engine that no weight depends on.
_BESIDE_THE_ENGINE = (
    "files/deployment.py",
    "files/known_scores.py",
    "files/program_check.py",
    "files/programs.py",
    "followers.py",
    "hardware/latency.py",
    "identity.py",
    "pruning/layer_times.py",
    "results.py",
    "tune_adapter.py",
    "work.py",
)
# Keys of a cascade that change a stage by its plan alone, which names the stage, its levels and its epochs.
_IN_PLANS = ("macs_kept", "schedule", "epoch_growth", "recovery_epochs")
_LIBRARIES = ("pillow", "torchcodec", "torch-pruning", "torchvision")


def digest(values: Identity) -> str:
    """32 hexadecimal digits that tell these plain values from any others."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def data_digest(data: DataSplits) -> str:
    """Digest of all training and validation images, their labels and how they are normalised."""
    tensors: dict[str, torch.Tensor] = {}
    streamed: dict[str, str] = {}
    for name, part in (("train", data.train), ("val", data.val)):
        tensors[f"{name}.labels"] = part.labels_N
        content = part.content
        if isinstance(content, str):
            streamed[name] = content
        else:
            tensors[f"{name}.images"] = content
    described: dict[str, Any] = {"mean": data.mean, "std": data.std, "class_names": data.class_names}
    if streamed:
        described["streamed"] = streamed
    return digest({"tensors": tensors_digest(tensors), **described})


def engine_digest() -> str:
    """Digest of the code that trains, and of the versions of the libraries that weights depend on."""
    sources = {name: text for name, text in sources_of(Path(__file__).parent).items() if name not in _BESIDE_THE_ENGINE}
    return digest({"sources": sources, "torch": torch.__version__, "libraries": _versions()})


def sources_of(package: Path) -> dict[str, str]:
    """The code of a package's modules, by their paths within its folder."""
    files = sorted(package.rglob("*.py"))
    return {file.relative_to(package).as_posix(): file.read_text(encoding="utf-8") for file in files}


def _versions() -> dict[str, str | None]:
    """Of those that build networks, find their groups, mix images and decode them; `None` where one is missing."""
    found: dict[str, str | None] = dict.fromkeys(_LIBRARIES)
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def teacher_identity(
    model: ModelConfig, *, recipe: Recipe, augmentation: Augmentation, seed: int, data: str
) -> Identity:
    """What determines a trained teacher.

    Args:
        model: the network; one whose weights are read from a file is not trained, and has no identity.
        recipe: how it is trained.
        augmentation: what training batches go through.
        seed: of its initial weights and its training.
        data: the images' digest.
    """
    return {
        "stage": "teacher",
        "model": _described(model),
        "recipe": recipe.to_dict(),
        "augmentation": augmentation,
        "seed": seed,
        "data": data,
        "engine": engine_digest(),
    }


def trial_origin(
    model: ModelConfig, *, teacher: Mapping[str, torch.Tensor], augmentation: Augmentation, data: str
) -> str:
    """Digest of what all cascades of a search have in common.

    Args:
        model: the teacher's network.
        teacher: its trained weights.
        augmentation: what training batches go through.
        data: the images' digest.
    """
    return digest(
        {
            "model": _described(model),
            "teacher": tensors_digest(teacher),
            "augmentation": augmentation,
            "data": data,
            "engine": engine_digest(),
        }
    )


def stage_identities(
    config: CascadeConfig, plans: Sequence[StagePlan], origin: str, latency: LatencyTable | None = None
) -> tuple[Identity, ...]:
    """What determines each stage of a cascade; a stage holds the digest of the one before, so equal prefixes meet.

    Args:
        config: the cascade.
        plans: its stages.
        origin: as `trial_origin` gives it.
        latency: the layers' times; they count where sizes are in latency.
    """
    times = latency.to_dict() if config.pruning.size_in == "latency" and latency is not None else None
    shared = {key: value for key, value in config.to_dict().items() if key not in _IN_PLANS}
    shared["pruning"] |= {"saliency": _with_source(config.pruning.saliency)}
    del shared["recipe"]["epochs"]  # the plan has the stage's
    identities: list[Identity] = []
    before = origin
    for plan in plans:
        identity = shared | {
            "stage": plan.name,
            "before": before,
            "epochs": plan.epochs,
            "macs_kept": {str(level): config.macs_kept[level - 1] for level in plan.levels},
            "latency": times,
        }
        identities.append(identity)
        before = digest(identity)
    return tuple(identities)


def _described(model: ModelConfig) -> dict[str, Any]:
    values = model.to_dict() | {"name": _with_source(model.name)}
    del values["weights"]
    return values


def _with_source(name: str) -> str:
    """A name as it is, or that of a user's own function with the digest of the file that it stands in."""
    if not is_import_path(name):
        return name
    file = getattr(import_module(name.partition(":")[0]), "__file__", None)
    return f"{name} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}" if file else name
