"""What is there stays until what replaces it is whole, and nothing but an export is replaced."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.exports.delivery import check_destination, check_room, deliver
from orchestrator.storage.staging import staging
from trainables.errors import InputError


def export(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(text)
    return folder


def test_an_export_is_replaced_whole(tmp_path: Path) -> None:
    old, new = export(tmp_path / "out", "old"), export(tmp_path / "staging" / "package", "new")
    (old / "left.over").touch()
    check_destination(old, "replace")
    deliver(new, old, "replace")
    assert [path.name for path in old.iterdir()] == ["card.json"]
    assert (old / "card.json").read_text() == "new"


def test_what_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no export"):
        check_destination(tmp_path / "thesis", "replace")
    with pytest.raises(InputError, match="was taken while"):
        deliver(export(tmp_path / "staging" / "package", "new"), tmp_path / "thesis", "replace")
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"


def test_the_old_one_comes_back_if_the_new_one_cannot_be_moved(tmp_path: Path) -> None:
    old = export(tmp_path / "out", "old")
    (tmp_path / "staging").mkdir()
    with pytest.raises(InputError, match="was taken while"):
        deliver(tmp_path / "staging" / "package", old, "replace")  # which is not there
    assert (old / "card.json").read_text() == "old"


def test_the_old_one_comes_back_if_the_user_stops_in_between(tmp_path: Path, monkeypatch) -> None:
    old, rename = export(tmp_path / "out", "old"), Path.rename

    def stopped(path: Path, target: Path) -> Path:
        rename(path, target)
        monkeypatch.setattr(Path, "rename", rename)
        raise KeyboardInterrupt

    with staging(old) as scratch:
        package = export(scratch / "package", "new")
        monkeypatch.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            deliver(package, old, "replace")
    assert (old / "card.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_address_is_no_folder() -> None:
    with pytest.raises(InputError, match=r"s3:/photos/shards is an address, but must be a folder"):
        check_destination(Path("s3://photos/shards"), "keep")


@pytest.mark.parametrize("existing", ["keep", "replace"])
def test_free_places_are_free(tmp_path: Path, existing) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new", tmp_path / "new" / "deep"):
        check_destination(place, existing)


def test_a_dangling_link_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is there already"):
        check_destination(tmp_path / "link", "keep")


@pytest.mark.parametrize(("params", "enough"), [(10_000, 5e6), (25_000_000, 510e6)])
def test_the_room_that_is_asked_for_follows_what_is_written(tmp_path: Path, monkeypatch, params, enough) -> None:
    """A tiny export fits on a disk with some MB left; a large one, its scratch and a quarter more must fit, too."""
    images = SimpleNamespace(images_NCHW=torch.zeros(100, 3, 8, 8))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=enough))
    check_room(tmp_path / "out", ["native", "onnx"], [params], params, images)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0.95 * enough - 10**6))
    with pytest.raises(InputError, match="make room, or choose another place with --out"):
        check_room(tmp_path / "out", ["native", "onnx"], [params], params, images)
