"""What lies among images and is not read is told, and what nobody takes for one is not."""

import os
from pathlib import Path

import pytest

from orchestrator.data.left_out import left_out_notes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folders of a part and of two classes, of which all that is in them is read or is no image."""
    for name in ("cat/a.png", "cat/._a.png", "cat/a.json", "cat/Thumbs.db", "cat/.cache/b.png", "dog/a.JPG"):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "train/__MACOSX").mkdir()
    (tmp_path / "train/dog/linked.png").symlink_to(tmp_path / "train/cat/a.png")
    return tmp_path


def test_nothing_is_said_where_all_images_are_read(photos: Path) -> None:
    assert list(left_out_notes(photos)) == []


def test_files_folders_and_broken_links_are_counted_with_an_example(photos: Path) -> None:
    for number in range(5):
        (photos / f"train/dog/{number}.heic").touch()
    (photos / "train/cat/kittens").mkdir()
    (photos / "train/cat/moved.png").symlink_to(photos / "nowhere.png")
    (photos / "train/bird").symlink_to(photos / "nowhere")  # would be a class
    (note,) = left_out_notes(photos)
    assert note.startswith(
        f"{photos} holds what is not read: 2 broken links, such as train/bird; 5 files, such as train/dog/0.heic; "
        "1 folder, such as train/cat/kittens; images must lie directly in their class's folder, as one of .png, "
    )


def test_what_is_no_file_is_counted_whatever_its_name(photos: Path) -> None:
    os.mkfifo(photos / "train/cat/pipe.png")
    (photos / "train/dog/to-pipe.JPG").symlink_to(photos / "train/cat/pipe.png")
    (note,) = left_out_notes(photos)
    assert note.startswith(f"{photos} holds what is not read: 2 special files, such as train/cat/pipe.png; images must")


def test_images_beside_the_class_folders_are_told(photos: Path) -> None:
    (photos / "train/loose.PNG").touch()
    (photos / "train/._loose.png").touch()
    (photos / "train/labels.heic").touch()  # nobody's image, as far as we know
    (photos / "preview.png").touch()  # beside the parts
    (note,) = left_out_notes(photos)
    assert note.startswith(f"{photos} holds what is not read: 1 loose image, such as train/loose.PNG; images must")


def test_classes_need_no_folder_of_a_part(photos: Path) -> None:
    (photos / "train/cat/b").touch()
    (note,) = left_out_notes(photos / "train")
    assert "1 file, such as cat/b;" in note


def test_names_of_files_may_have_any_bytes(photos: Path) -> None:
    (photos / "train/cat/caf\udce9.heic").touch()
    (note,) = left_out_notes(photos)
    assert r"cat/caf\udce9.heic" in note
