"""Folders out of sight: gone with whoever made them, at the latest when the next one is made for the same place."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.storage.staging import staging
from trainables.errors import InputError

ROOT = Path(__file__).parents[3]
WAITS = """
import sys
from pathlib import Path
from orchestrator.storage.staging import staging

with staging(Path(sys.argv[1]), name=sys.argv[3] if sys.argv[3:] else None) as folder:
    (folder / sys.argv[2]).mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def waiting(tmp_path: Path):
    """Start processes that hold a folder for `out`; each with its folder, until it is killed or the test ends."""
    started = []

    def start(inside="set", *name):
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS, str(tmp_path / "out"), inside, *name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path, waiting) -> None:
    process, left = waiting()
    killed(process)
    _, in_use = waiting()
    assert not left.exists()
    with staging(tmp_path / "out") as folder:
        assert in_use.is_dir()
        assert folder.is_dir()
    assert not folder.exists()


def test_what_was_left_under_a_name_that_destinations_share_goes_with_any_of_them(tmp_path: Path, waiting) -> None:
    process, left = waiting("set", "shared")
    killed(process)
    _, in_use = waiting("set", "shared")
    process, again = waiting("set", "shared")
    killed(process)
    assert (left.exists(), again.is_dir()) == (False, True)
    with staging(tmp_path / "out"), staging(tmp_path / "another"):
        assert again.is_dir()
    with staging(tmp_path / "another", name="shared") as folder:
        assert folder.name.startswith(".shared-")
        assert in_use.is_dir()
        assert not again.exists()


def test_what_was_about_to_be_replaced_stays(tmp_path: Path, waiting) -> None:
    process, left = waiting("replaced")
    killed(process)
    with staging(tmp_path / "out"):
        assert (left / "replaced").is_dir()


def test_what_another_machine_left_stays(tmp_path: Path, waiting) -> None:
    process, left = waiting()
    killed(process)
    (left / ".in-use").write_text("another")  # whose lock this one may not see
    with staging(tmp_path / "out"):
        assert left.is_dir()


def test_other_folders_stay(tmp_path: Path) -> None:
    for name in (".out-mine", ".outer-abcdefgh", "out-abcdefgh", ".out-2-abcdefgh"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out-2-abcdefgh/.in-use").write_text(platform.node())
    with staging(tmp_path / "out"):
        pass
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("ended", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_who_is_stopped_as_he_begins_leaves_nothing(tmp_path: Path, monkeypatch, ended) -> None:
    def stopped(*_: object) -> None:
        raise ended

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises((KeyboardInterrupt, InputError)), staging(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
