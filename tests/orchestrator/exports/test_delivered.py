"""A delivered folder is what its card says, or is refused with the file that is not."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.export_command import print_check
from orchestrator.exports.delivered import check_export
from trainables.errors import InputError
from trainables.files.checkpoint import save_network
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec
from trainables.files.programs import write_program
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs

MODEL = ModelConfig(name="vgg-small", width=0.1)
SPEC = InputSpec(channels=1, image_size=8, mean=(0.5,), std=(0.25,), class_names=("a", "b"))


def export(folder: Path, seed: int) -> Path:
    network = build(MODEL, num_classes=2, in_channels=1, seed=seed).eval().requires_grad_(requires_grad=False)
    save_network(folder, network, model=MODEL, input_spec=SPEC)
    write_program(trace(network, SPEC, pixels="normalised"), folder / "model.pt2")
    macs = count_macs(network, SPEC.shape)
    files = {path.name: facts(path) for path in folder.iterdir()}
    checks = [{"format": format, "macs": macs} for format in ("native", "pt2")]
    card = {"format": "cascade-card", "version": 2, "search": "s", "trial": 3, "level": 1, "files": files}
    card |= {"model": MODEL.to_dict(), "verification": {"files": checks}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return export(folder / "one", 1), export(folder / "two", 2)


@pytest.fixture
def folder(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(originals[0], tmp_path / "export")
    return tmp_path / "export"


def change_card(folder: Path, change: Callable[[Any], object]) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def test_an_export_is_what_it_says(folder: Path) -> None:
    (folder / "README.md").write_text("The card for people.")
    found = check_export(folder)
    assert (found.name, found.formats, found.unread, found.unlisted) == ("s 3:1", ("native", "pt2"), (), ())


def test_a_card_for_people_that_was_changed_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").write_text("99 %")
    assert not check_export(folder).readme_changed, "cards of earlier versions do not note it"
    change_card(folder, lambda card: card.update(readme_sha256=facts(folder / "README.md")["sha256"]))
    assert not check_export(folder).readme_changed
    (folder / "README.md").write_text("100 %")
    assert check_export(folder).readme_changed
    print_check(folder, format="text")
    assert "note: README.md was changed since the export; the figures that" in capsys.readouterr().out
    (folder / "README.md").unlink()
    assert not check_export(folder).readme_changed


def test_what_else_lies_in_an_export_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.sh").write_text("curl")
    (folder / "model.pkl").mkdir()
    assert check_export(folder).unlisted == ("model.pkl", "run.sh")
    print_check(folder, format="text")
    assert "note: not on the card, and not looked at: 'model.pkl', 'run.sh'\n" in capsys.readouterr().out
    (folder / os.fsdecode(b"a\xff")).touch()
    print_check(folder, format="json")
    told = capsys.readouterr().out
    assert told.isascii()
    assert len(json.loads(told)["unlisted"]) == 3


def test_modules_that_lie_beside_the_files_are_not_run(folder: Path) -> None:
    for module in ("rich", "torch", "onnx", "orchestrator"):
        (folder / f"{module}.py").write_text("from pathlib import Path\nPath('it_ran').touch()\n")
    # As the installed command starts; with -m, Python itself looks in the current folder first.
    checking = [sys.executable, "-P", "-c", "from orchestrator.cli import main; main()", "check", "."]
    path = os.pathsep.join(folder for folder in sys.path if folder)
    subprocess.run(checking, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=120)
    assert not (folder / "it_ran").exists()


def test_a_network_of_a_users_own_is_compared_and_not_built(folder: Path) -> None:
    change_card(folder, lambda card: card["model"].update(name="os:system"))
    assert check_export(folder).unread == ("native",)


@pytest.mark.parametrize("file", ["model.pt2", "weights.safetensors"])
def test_a_file_of_another_export_is_found_out(originals: tuple[Path, Path], folder: Path, file: str) -> None:
    shutil.copy(originals[1] / file, folder / file)
    with pytest.raises(InputError, match=rf"{file} (is not the file that the card is about|has .* bytes)"):
        check_export(folder)


def test_a_card_that_agrees_with_a_hostile_file_does_not_help_it(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.pt2")
    change_card(folder, lambda card: card["files"].update({"model.pt2": facts(folder / "model.pt2")}))
    with pytest.raises(InputError, match=r"model\.pt2 is refused"):
        check_export(folder)


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "model.pt2").rename(tmp_path / "elsewhere.pt2")
    (folder / "model.pt2").symlink_to(tmp_path / "elsewhere.pt2")
    with pytest.raises(InputError, match="no regular file"):
        check_export(folder)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda folder: (folder / "card.json").unlink(), "card.json is missing"),
    "half a card": (lambda folder: (folder / "card.json").write_text("{"), "card.json is damaged"),
    "a list": (lambda folder: (folder / "card.json").write_text("[]"), "is no card of an export"),
    "another version": (lambda f: change_card(f, lambda card: card.update(version=1)), "has version 1"),
    "no files": (lambda f: change_card(f, lambda card: card.update(files={})), "lists no file"),
    "files of nothing": (lambda f: change_card(f, lambda card: card.update(files=None)), "is damaged"),
    "a file without end": (
        lambda f: change_card(f, lambda card: card["files"]["model.pt2"].update(bytes=float("inf"))),
        "card.json is damaged: OverflowError",
    ),
    "a way out": (
        lambda f: change_card(f, lambda card: card["files"].update({"../../x": {"bytes": 1, "sha256": ""}})),
        r"lists '\.\./\.\./x', which no export has",
    ),
    "a lost file": (lambda folder: (folder / "model.pt2").unlink(), "is missing"),
    "a file too many": (lambda folder: (folder / "model.onnx").touch(), "is not on the card"),
    "half a format": (
        lambda f: change_card(
            f, lambda card: (card["files"].pop("architecture.json"), (f / "architecture.json").unlink())
        ),
        "lists a part of the native format without architecture.json",
    ),
    "other MACs": (
        lambda f: change_card(f, lambda card: card["verification"]["files"][0].update(macs=1)),
        "MACs, but the card says 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders_are_refused(folder: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(InputError, match=message):
        check_export(folder)
