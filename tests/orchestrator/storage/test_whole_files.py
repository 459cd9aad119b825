import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.storage.whole_files import remove_left, write_atomically


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text instead of bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_process_was_about_to_write_goes_once_it_does_not_live(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        files = [f".state.safetensors.{process.pid}", f".1.stop.{process.pid}"]
        folders = [f".network.{process.pid}-abc_def0", f".0-1.{process.pid}-12345678"]
        others = [".bucket", ".5", f"state.{process.pid}", ".in-use", "network-12345678"]
        for name in (*files, *others):
            (tmp_path / name).touch()
        for name in folders:
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights").touch()
        (tmp_path / f".own.{os.getpid()}").touch()  # of an earlier process of this number, as in a container
        remove_left(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*files, *folders, *others}
    remove_left(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    remove_left(tmp_path / "none")
