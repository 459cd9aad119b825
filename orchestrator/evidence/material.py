"""What all runs of a study share: its images, and its teacher, trained once and kept beside the results."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from orchestrator.data.datasets import load_splits, load_test
from orchestrator.evidence.arms import Material
from orchestrator.evidence.plan import StudyPlan, digest_of_teacher
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import nothing_to_teach, percent
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet, in_memory
from trainables.datasets.splits import select, stratified_sample
from trainables.errors import InputError
from trainables.identity import data_digest, digest
from trainables.networks.given_weights import load_weights, versioned
from trainables.networks.models import build
from trainables.plain import require_number
from trainables.results import EpochProgress, has_learnt
from trainables.stages.evaluation import evaluate, guess
from trainables.stages.teacher import TeacherStage


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StudyImages:
    """The images of a study.

    Attributes:
        data: to train and to choose learning rates on.
        test: the same, with the test images where the validation images are.
    """

    data: DataSplits
    test: DataSplits

    def to(self, device: torch.device | str) -> "StudyImages":
        """The same on a device, where training images are held once."""
        data = self.data.to(device)
        return StudyImages(data=data, test=dataclasses.replace(data, val=self.test.val.to(device)))

    def digest(self) -> str:
        """What tells these images and their labels from any others, wherever they lie."""
        test = dataclasses.replace(self.test, train=self.test.val)  # the training images are in the other
        return digest({"data": data_digest(self.data), "test": data_digest(test)})

    def to_arrays(self) -> dict[str, Any]:
        """NumPy arrays and plain values, for an object store."""
        return {
            "data": self.data.to_arrays(),
            "test_images": self.test.val.shared(),
            "test_labels": self.test.val.labels_N.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "StudyImages":
        """Make them from what `to_arrays` gave, without a copy."""
        own = {"val_images": arrays["test_images"], "val_labels": arrays["test_labels"]}
        data = DataSplits.from_arrays(arrays["data"])
        return cls(data=data, test=dataclasses.replace(data, val=DataSplits.from_arrays(arrays["data"] | own).val))

    def save(self, path: Path) -> None:
        """Write them to a file, for other processes."""
        sets = {"train": self.data.train, "val": self.data.val, "test": self.test.val}
        parts = {name: in_memory(part, purpose="a study") for name, part in sets.items()}
        tensors: dict[str, torch.Tensor] = {}
        for name, part in parts.items():
            tensors |= {f"{name}.images": part.images_NCHW.contiguous(), f"{name}.labels": part.labels_N.contiguous()}
        about = {"mean": self.data.mean, "std": self.data.std, "class_names": self.data.class_names}
        save_file(tensors, path, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "StudyImages":
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            parts = {
                name: ImageSet(
                    images_NCHW=file.get_tensor(f"{name}.images"), labels_N=file.get_tensor(f"{name}.labels")
                )
                for name in ("train", "val", "test")
            }
        data = DataSplits(
            train=parts["train"],
            val=parts["val"],
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
            class_names=tuple(about["class_names"]),
        )
        return cls(data=data, test=dataclasses.replace(data, val=parts["test"]))


def load_images(plan: StudyPlan) -> StudyImages:
    """Read a study's images, and leave as many as it asks for.

    Raises:
        InputError: if they are missing, or there are fewer than it asks for, or they have several labels.
    """
    data = load_splits(plan.data)
    if data.multi_label:
        raise InputError(
            "these images have several labels each, but a study compares accuracy; give one label an image"
        )
    train = _some(in_memory(data.train, purpose="a study"), plan.images.train, plan, "train")
    val = _some(in_memory(data.val, purpose="a study"), plan.images.val, plan, "val")
    data = dataclasses.replace(data, train=train, val=val)
    return StudyImages(data=data, test=dataclasses.replace(data, val=load_test(plan.data).images))


def _some(images: ImageSet, number: int | None, plan: StudyPlan, name: str) -> ImageSet:
    if number is None or number == len(images):
        return images
    if number > len(images):
        raise InputError(f"images.{name} is {number}, but there are {len(images)}; ask for at most as many")
    num_classes = len(set(images.labels_N.tolist()))
    if number < num_classes:
        raise InputError(
            f"images.{name} is {number}, but there are {num_classes} classes; ask for at least one image of each"
        )
    return select(images, stratified_sample(images.labels_N, number=number, seed=plan.data.seed))


def prepare_teacher(
    plan: StudyPlan, images: StudyImages, folder: Path, *, told: Callable[[EpochProgress], None] = lambda _: None
) -> nn.Module:
    """A study's teacher: from the folder if it is there, read from `model.weights`, or else trained now and kept.

    Args:
        plan: the study.
        images: on the device to train on, where the teacher will be.
        folder: of the study.
        told: hears of each epoch.

    Raises:
        InputError: if its weights do not fit, or what the folder keeps is damaged.
        StageFailure: if it cannot be trained.
    """
    network = kept_teacher(plan, images.data, folder)
    if network is None:
        network, about = make_teacher(plan, images, told=told)
        keep_teacher(folder, network.state_dict(), about)
    return network


def kept_teacher(plan: StudyPlan, data: DataSplits, folder: Path) -> nn.Module | None:
    """The teacher that a folder keeps, on the device of the data; `None` where it is none of this study's.

    Raises:
        InputError: if it is damaged.
    """
    weights = _card(plan, folder).with_suffix(".safetensors")
    if not read_teacher(plan, folder) or not weights.exists():
        return None
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise _damaged(weights) from error
    return teacher_with(plan, data, tensors)


def teacher_with(plan: StudyPlan, data: DataSplits, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A study's teacher with these weights, on the device of the data."""
    network = build(plan.model, num_classes=data.num_classes, in_channels=data.in_channels, seed=plan.teacher_seed)
    network.load_state_dict(versioned(tensors, network))
    return network.to(data.train.labels_N.device).eval()


def make_teacher(
    plan: StudyPlan, images: StudyImages, *, told: Callable[[EpochProgress], None] = lambda _: None
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a study's teacher, or read its weights; the network, and what is known of it.

    Arguments and errors are those of `prepare_teacher`.
    """
    data, started = images.data, time.perf_counter()
    network = build(plan.model, num_classes=data.num_classes, in_channels=data.in_channels, seed=plan.teacher_seed)
    network = network.to(data.train.labels_N.device)
    if plan.model.weights is not None:
        load_weights(network, Path(plan.model.weights))
    else:
        stage = TeacherStage(
            network, recipe=plan.teacher, data=data, augmentation=plan.data.augmentation, seed=plan.teacher_seed
        )
        while not stage.finished:
            told(stage.train_epoch())
    return network.eval(), {
        "digest": digest_of_teacher(plan),
        "val_accuracy": evaluate(network, data).accuracy,
        "val_guess": guess(data.val.labels_N),
        "test_accuracy": evaluate(network, images.test).accuracy,
        "seconds": time.perf_counter() - started,
    }


def teacher_note(about: Mapping[str, Any]) -> str | None:
    """Why a study's teacher has nothing to teach; `None` where it has, or an earlier version did not note what tells.

    Args:
        about: what `read_teacher` gives.
    """
    if "val_guess" not in about or has_learnt(about["val_accuracy"], guess=about["val_guess"]):
        return None
    accuracy, guess = (percent(about[name], 2) for name in ("val_accuracy", "val_guess"))
    return nothing_to_teach(f"{accuracy} on validation images", guess)


def keep_teacher(folder: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Write a teacher into a study's folder, beside those of other settings; what says that it is whole comes last."""
    card = _own_card(folder, about["digest"])
    card.parent.mkdir(parents=True, exist_ok=True)
    card.unlink(missing_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, card.with_suffix(".new"))
    card.with_suffix(".new").replace(card.with_suffix(".safetensors"))
    write_atomically(card, json.dumps(dict(about), indent=1).encode())


def read_teacher(plan: StudyPlan, folder: Path) -> dict[str, Any]:
    """What is known of a study's teacher; empty before it is there.

    Raises:
        InputError: if the file that says it is damaged.
    """
    card = _card(plan, folder)
    if not card.exists():
        return {}
    try:
        about: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        for name in about.keys() & {"val_accuracy", "val_guess", "test_accuracy"}:
            require_number(name, about[name], at_least=0.0, at_most=1.0)
    except (ValueError, AttributeError) as error:
        raise _damaged(card) from error
    return about if about.get("digest") == digest_of_teacher(plan) else {}


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged; remove it, and the teacher is trained anew")


def _card(plan: StudyPlan, folder: Path) -> Path:
    """The file that says what is known of a study's teacher; its weights lie beside it."""
    own = _own_card(folder, digest_of_teacher(plan))
    return own if own.exists() else folder / "teacher.json"  # where earlier versions kept the one that was run last


def _own_card(folder: Path, digest: str) -> Path:
    return folder / "teachers" / f"{digest}.json"


def find_device(name: str) -> torch.device:
    """The device to train on, by its name.

    Raises:
        InputError: if it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda, but no card is to be had; use cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device is {name!r}, but must be cpu or cuda")
    return torch.device(name)


def material_of(plan: StudyPlan, images: Path, folder: Path, device: torch.device) -> Material:
    """What a process of its own needs: images as `StudyImages.save` wrote them, and the teacher, which is there."""
    here = StudyImages.load(images).to(device)
    return Material(plan=plan, teacher=prepare_teacher(plan, here, folder), data=here.data, test=here.test)
