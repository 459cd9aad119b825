"""The archive keeps every candidate once, survives a stop at any moment, and says so when it is damaged."""

import dataclasses
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.front.archive import Archive, Candidate
from trainables.errors import InputError


def candidate(trial: int = 0, level: int = 1, **values: object) -> Candidate:
    plain = Candidate(
        trial=trial,
        level=level,
        num_assistants=1,
        val_accuracy=0.97,
        val_accuracy_before_recalibration=0.96,
        macs=1000,
        macs_kept=0.1,
        params=50,
        params_kept=0.05,
        latency_ms=None,
        network=f"trials/{trial}/level-{level}",
        cascade="{}",
    )
    return dataclasses.replace(plain, **values)  # type: ignore[arg-type]


def test_missing_file_is_an_empty_archive(tmp_path: Path) -> None:
    assert Archive(tmp_path / "candidates.parquet").candidates() == ()


def test_candidates_come_back_equal_and_sorted(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    first, second, third = candidate(0, 1), candidate(0, 2, latency_ms=1.5), candidate(10, 1, val_accuracy=1 / 3)
    archive.add([third, second])
    archive.add([first])
    assert Archive(archive.path).candidates() == (first, second, third)


def test_adding_the_same_again_leaves_the_file_alone(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate()])
    before = archive.path.stat().st_ino
    archive.add([candidate()])
    assert archive.path.stat().st_ino == before


def test_other_values_under_the_same_key_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate()])
    with pytest.raises(
        InputError, match=r"candidate 0:1 is already in .* with another val_accuracy \(0\.97, now 0\.5\)"
    ):
        archive.add([candidate(3), candidate(val_accuracy=0.5)])
    assert archive.candidates() == (candidate(),)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate()])
    content = archive.path.read_bytes()
    archive.path.write_bytes({"cut": content[: len(content) // 2], "text": b"not parquet", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"candidates\.parquet is no archive"):
        archive.candidates()
    with pytest.raises(InputError, match=r"candidates\.parquet is no archive"):
        archive.add([candidate(5)])


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"trial": [1]}), path)
    with pytest.raises(InputError, match=r"other\.parquet is a Parquet file, but no archive"):
        Archive(path).candidates()


def test_newer_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate()])
    table = pq.read_table(archive.path)
    pq.write_table(table.replace_schema_metadata({b"cascade_archive_format": b"4"}), archive.path)
    with pytest.raises(InputError, match=r"format version 4, but this version of the program reads up to 3"):
        archive.candidates()


def test_an_archive_from_before_early_stopping_holds_finished_trials_and_can_be_added_to(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate(0)])
    old = pq.read_table(archive.path).drop_columns(["fidelity", "val_top5"])
    pq.write_table(old.replace_schema_metadata({b"cascade_archive_format": b"1"}), archive.path)
    assert archive.candidates() == (candidate(0, fidelity=1.0),)
    archive.add([candidate(1, fidelity=0.25)])
    assert [found.fidelity for found in archive.candidates()] == [1.0, 0.25]


def test_an_archive_from_before_top5_can_be_read_and_added_to(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate(0, fidelity=0.5)])
    old = pq.read_table(archive.path).drop_columns("val_top5")
    pq.write_table(old.replace_schema_metadata({b"cascade_archive_format": b"2"}), archive.path)
    assert archive.candidates() == (candidate(0, fidelity=0.5),)
    archive.add([candidate(1, val_top5=0.99)])
    assert [found.val_top5 for found in archive.candidates()] == [None, 0.99]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val_accuracy", math.nan),
        ("val_accuracy", 1.5),
        ("macs_kept", 0.0),
        ("params_kept", math.inf),
        ("latency_ms", -1),
        ("fidelity", 0.0),
        ("fidelity", 1.1),
        ("fidelity", math.nan),
    ],
)
def test_unusable_values_make_no_candidate(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{name} of candidate 4:2 is"):
        candidate(4, 2, **{name: value})


def test_what_is_new_is_on_disk_before_the_parquet_file_is_written_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate(0)])
    archive._next_settling = math.inf  # as after a writing that took long
    archive.add([candidate(2), candidate(1)])
    assert len(pq.read_table(archive.path)) == 1
    another = Archive(archive.path)
    assert archive.candidates() == another.candidates() == (candidate(0), candidate(1), candidate(2))
    archive.settle()
    assert [row["trial"] for row in pq.read_table(archive.path).to_pylist()] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [archive.path]
    assert another.candidates() == archive.candidates()


def test_half_a_line_that_a_stopped_machine_left_counts_for_nothing(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate(0)])
    archive._next_settling = math.inf
    archive.add([candidate(1)])
    lines = tmp_path / "candidates.new.jsonl"
    whole = lines.read_text()
    lines.write_text(whole + whole[: len(whole) // 2])
    after = Archive(archive.path)
    assert after.candidates() == (candidate(0), candidate(1))
    after.add([candidate(2)])
    assert Archive(archive.path).candidates() == (candidate(0), candidate(1), candidate(2))


@pytest.mark.parametrize("content", [b'[{"trial": 1}]\n', b"\xff\x00\n"])
def test_lines_that_are_no_candidates_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "candidates.new.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"candidates\.new\.jsonl holds no candidates or is damaged"):
        Archive(tmp_path / "candidates.parquet").candidates()


def test_a_disk_without_room_loses_nothing_that_was_there(tmp_path: Path, little_room) -> None:
    archive = Archive(tmp_path / "candidates.parquet")
    archive.add([candidate(0)])
    archive._next_settling = math.inf
    with little_room(100), pytest.raises(OSError, match="File too large"):
        archive.add([candidate(1)])
    archive.add([candidate(2)])
    assert {found.trial for found in Archive(archive.path).candidates()} == {0, 2}


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "candidates.parquet").mkdir()  # which nobody can read as a file, the superuser neither
    with pytest.raises(InputError, match=r"candidates\.parquet cannot be read \(Is a directory\); see to its perm"):
        Archive(tmp_path / "candidates.parquet").candidates()
