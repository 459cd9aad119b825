"""Named spaces and complete experiments, as plain values; `cascade presets NAME` prints one as YAML to start from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from search_spaces.cascade import CascadeSpace

SPACES: Mapping[str, CascadeSpace] = MappingProxyType(
    {
        # Students from a twentieth of the teacher up: a safe first look.
        "mild": CascadeSpace(student_macs_kept=(0.05, 0.4)),
        "default": CascadeSpace(),
        # One level after the other, on a grid: what cascades have in common is computed once. Stages are as long as
        # there are levels to share the epochs, so cascades meet that have as many; a few kinds meet more often.
        "grid": CascadeSpace(
            num_assistants=(1, 2),
            student_macs_kept=(0.01, 0.1),
            temperature=(4.0, 4.0),
            distillation_weight=(0.7, 0.7),
            schedule=("sequential",),
            size_grid=8,
        ),
        # All that can be searched.
        "wide": CascadeSpace(
            num_assistants=(0, 4),
            student_macs_kept=(0.01, 0.5),
            learning_rate=(0.02, 0.3),
            schedule=("joint", "sequential"),
            cost=("macs", "none"),
            nested=(False, True),
            shared_affine=(False, True),
        ),
    }
)

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "demo": {
            "model": {"name": "vgg-small"},
            "data": {"name": "digits", "image_size": 16, "val_fraction": 0.3},
            "teacher": {"epochs": 12, "batch_size": 64, "learning_rate": 0.05},
            "cascade": {"recipe": {"epochs": 16, "batch_size": 64, "learning_rate": 0.06}},
            "space": {"num_assistants": [0, 2], "student_macs_kept": [0.005, 0.1], "schedule": ["joint", "sequential"]},
            "num_trials": 10,
            "num_starting_points": 6,
        },
        "cifar10-vgg16": {
            "model": {"name": "vgg16"},
            "data": {"name": "cifar10", "augmentation": "crop-flip", "val_fraction": 0.1},
            "teacher": {"epochs": 100, "batch_size": 256, "learning_rate": 0.1},
            "cascade": {"recipe": {"epochs": 60, "batch_size": 256, "learning_rate": 0.05}},
            "space": "default",
            "num_trials": 40,
            "resources": {"gpus_per_trial": 0.25},
        },
        "cifar100-resnet18": {
            "model": {"name": "resnet18"},
            "data": {"name": "cifar100", "augmentation": "crop-flip", "val_fraction": 0.1},
            "teacher": {"epochs": 100, "batch_size": 256, "learning_rate": 0.1, "label_smoothing": 0.1},
            "cascade": {"recipe": {"epochs": 60, "batch_size": 256, "learning_rate": 0.05}},
            "space": "mild",
            "num_trials": 40,
            "resources": {"gpus_per_trial": 0.5},
        },
        "imagefolder-resnet18": {
            "model": {"name": "resnet18", "stem": "imagenet"},
            "data": {"name": "imagefolder", "image_size": 96, "augmentation": "crop-flip"},
            "teacher": {"epochs": 40, "batch_size": 64, "learning_rate": 0.05},
            "cascade": {"recipe": {"epochs": 40, "batch_size": 64, "learning_rate": 0.03}},
            "space": "mild",
            "num_trials": 20,
        },
    }
)

# What each is and needs, in a line.
PURPOSES: Mapping[str, str] = MappingProxyType(
    {
        "demo": "a small VGG on handwritten digits that come along; a few minutes on two CPU cores",
        "cifar10-vgg16": "VGG16 on CIFAR-10, which data.path must hold (data.download=true fetches it); a quarter of a "
        "GPU a trial",
        "cifar100-resnet18": "ResNet-18 on CIFAR-100, which data.path must hold (data.download=true fetches it); half "
        "a GPU a trial",
        "imagefolder-resnet18": "ResNet-18 on your own photographs, a folder a class in data.path; on the CPU unless "
        "resources.gpus_per_trial says otherwise",
    }
)
