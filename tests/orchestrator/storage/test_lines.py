"""Lines are whole and all there, whatever a kill or a full disk did while one was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.storage.lines import append_lines, append_lines_durably, drop_half_line

Append = Callable[[Path, bytes], None]


@pytest.mark.parametrize("append", [append_lines, append_lines_durably])
def test_lines_come_one_after_the_other(tmp_path: Path, append: Append) -> None:
    path = tmp_path / "file"
    append(path, b"one\n")
    append(path, b"two\nthree\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntwo\n"])
def test_what_a_kill_left_of_a_line_swallows_nothing(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(before + b"ha" * 10_000)
    append_lines(path, b"whole\n")
    assert path.read_bytes() == before + b"whole\n"
    path.write_bytes(before + b"ha")
    drop_half_line(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("append", [append_lines, append_lines_durably])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, append: Append, little_room) -> None:
    path = tmp_path / "file"
    append(path, b"one\n")
    with little_room(10), pytest.raises(OSError, match="File too large"):
        append(path, b"two\n" * 2000)
    assert path.read_bytes() == b"one\n"
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
