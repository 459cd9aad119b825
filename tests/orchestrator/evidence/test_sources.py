"""Results are of the images and weights that their study began with, wherever these lie."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from orchestrator.evidence.__main__ import main
from orchestrator.evidence.folder import RESULTS
from orchestrator.evidence.results import ResultFile
from orchestrator.evidence.sources import SOURCES


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A few images of noise, in a folder."""
    generator = torch.Generator().manual_seed(1)
    for part, number in (("train", 16), ("val", 4), ("test", 4)):
        for class_name in ("cat", "dog"):
            for index in range(number):
                pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=generator)
                path = tmp_path / "photos" / part / class_name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "photos"


@pytest.fixture
def study(plain: dict[str, Any], photos: Path, tmp_path: Path) -> list[str]:
    """The words that run a study of one run on them."""
    data = {"name": "imagefolder", "path": str(photos), "image_size": 8}
    teacher = plain["teacher"] | {"batch_size": 8}
    changed = {"data": data, "images": {}, "teacher": teacher, "arms": {"plain": {}}, "seeds": [1]}
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain | changed))
    return [str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out")]


def num_results(study: list[str]) -> int:
    return len(ResultFile(Path(study[-1]) / RESULTS).read())


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_other_images_are_refused(study: list[str], photos: Path, capsys, part: str) -> None:
    assert main(study) == 0
    other = photos.with_name("other")
    shutil.copytree(photos, other)
    Image.new("RGB", (8, 8)).save(other / part / "cat" / "0.png")
    capsys.readouterr()
    assert main([*study, "--set", f"data.path={other}"]) == 2
    assert "evidence: what lies under data.path is not what the results in" in capsys.readouterr().err
    assert num_results(study) == 1


def test_images_that_were_moved_go_on_and_others_are_of_other_settings(study: list[str], photos: Path) -> None:
    assert main(study) == 0
    moved = photos.rename(photos.with_name("moved"))
    assert main([*study, "--set", f"data.path={moved}", "--set", "seeds=[1,2]"]) == 0
    assert num_results(study) == 2
    # Fewer images are another setting: their runs are others, and lie beside the first.
    fewer = [*study, "--set", f"data.path={moved}", "--set", "images.train=24"]
    assert main(fewer) == 0
    assert num_results(study) == 3


def test_changed_weights_are_refused(study: list[str], tmp_path: Path, capsys) -> None:
    assert main(study) == 0
    weights = tmp_path / "teacher.safetensors"
    (trained,) = (tmp_path / "out" / "teachers").glob("*.safetensors")
    shutil.copy(trained, weights)
    given = [*study, "--set", f"model.weights={weights}"]
    assert main(given) == 0
    assert num_results(study) == 2
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert main(given) == 2
    assert "what lies under model.weights is not what the results" in capsys.readouterr().err


def test_a_folder_that_says_nothing_goes_on_and_says_so(study: list[str], tmp_path: Path, capsys) -> None:
    assert main(study) == 0
    assert "note:" not in capsys.readouterr().out
    (tmp_path / "out" / SOURCES).unlink()
    assert main(study) == 0
    assert "note: nothing says which images the results in" in capsys.readouterr().out
    assert main(study) == 0
    assert "note:" not in capsys.readouterr().out
    (tmp_path / "out" / SOURCES).unlink()
    assert main([*study, "--set", "images.train=24"]) == 0  # of which there are no results
    assert "note:" not in capsys.readouterr().out
    assert main(study) == 0
    assert "note: nothing says which images the results in" in capsys.readouterr().out
    (tmp_path / "out" / SOURCES).write_text("[]")
    assert main(study) == 2
    assert "sources.json is damaged" in capsys.readouterr().err
