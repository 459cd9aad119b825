"""The one command for a machine with a card, on the CPU: that it runs to its end, whatever its figures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.table import read_rows
from trainables.errors import InputError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
TINY = ["--batch=16", "--width=0.1", "--epochs=1", "--steps=2", "--packed=2"]


@pytest.mark.integration
def test_all_that_is_measured_on_a_card_runs_without_one(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    done = subprocess.run(
        ["sh", SCRIPT, "--device=cpu", "--noise=64", f"--rows={rows}", *TINY],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    names = [row.name for row in read_rows(rows)]
    assert names == [
        "bf16 matrix product",
        "VGG16 teacher: accuracy",
        "VGG16 teacher: time to 93%",
        *(
            f"{step}{what}"
            for step in (
                "joint step, not recorded",
                "joint step, levels one after the other",
                "joint step",
                "joint step, widths in multiples of 2",
            )
            for what in ("", ": achieved")
        ),
        *(f"latency of 64% of the MACs / dense, batch {batch}" for batch in (1, 64)),
        *["images/s of the input alone, images on the card"] * 2,
        "images/s of the smallest level alone",
        "images/s of the joint step, images on the card",
        "images/s of the joint step, images in main memory",
        "2 trials on one card / one at a time",
    ]
    assert all(name in done.stdout for name in names)


def test_data_is_asked_for_and_nothing_is_downloaded_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device=cpu"])
    assert "one of the arguments --data --noise is required" in capsys.readouterr().err
    with pytest.raises(InputError, match="download"):
        gpu.main(["--device=cpu", f"--data={tmp_path}", *TINY])
