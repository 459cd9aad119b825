"""The picture that stands still: what it joins, and that Matplotlib keeps quiet."""

import os
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from orchestrator.front.still_picture import png
from tests.orchestrator.front.fronts import POPULATION, view


def test_the_still_image_is_drawn_in_silence_where_there_is_no_home() -> None:
    script = "from orchestrator.front.still_picture import new_figure; new_figure(figsize=(1, 1))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    named = {
        "HOME": os.devnull,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # below which nobody, not even root, may write
    done = subprocess.run(
        [sys.executable, "-c", script], env=kept | named, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("objectives", "line"),
    [(("val_accuracy", "macs_kept"), "-"), (("val_accuracy", "macs_kept", "latency_ms"), "None")],
)
def test_the_still_image_joins_a_front_of_two_objectives_alone(
    monkeypatch: pytest.MonkeyPatch, objectives: tuple[str, ...], line: str
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_args, **_kwargs: saved.append(self))
    png(view(POPULATION, *objectives))
    (drawn,) = (one for one in saved[0].axes[0].lines if one.get_label() == "front")
    assert drawn.get_linestyle() == line


def test_the_legend_lies_beside_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_args, **_kwargs: saved.append(self))
    png(view(POPULATION))
    (axes,) = saved[0].axes
    assert axes.get_legend() is None
    (legend,) = saved[0].legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert [text.get_text() for text in legend.get_texts()] == ["dominated", "front", "knee", "teacher, 98.5 %"]
