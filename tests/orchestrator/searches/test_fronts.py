"""Pictures of a front as files: that they read offline, and that no front is too small for them."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.front.interactive_page import front_figure
from orchestrator.searches.fronts import save_front
from tests.orchestrator.front.fronts import POPULATION, view


def test_a_front_that_constraints_leave_empty_is_drawn(tmp_path: Path) -> None:
    none = dataclasses.replace(
        view(POPULATION), front=(), knee=None, breaking=frozenset(candidate.key for candidate in POPULATION)
    )
    assert [trace.name for trace in front_figure(none).data] == ["dominated, or breaking a constraint", "front"]
    save_front(none, tmp_path)
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (1440, 900)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_saved_figures_read_offline_and_hold_a_picture(tmp_path: Path, size: int) -> None:
    html, png = save_front(view(POPULATION[:size]), tmp_path)
    page = html.read_text()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
    with Image.open(png) as image:
        assert image.size == (1440, 900)
        assert len(image.convert("RGB").getcolors(1 << 21)) > 10
    assert sorted(tmp_path.iterdir()) == [html, png]


@pytest.mark.parametrize("objectives", [("val_accuracy", "latency_ms"), ("val_accuracy", "params_kept", "macs_kept")])
def test_saving_works_for_other_objectives(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    save_front(view(POPULATION, *objectives), tmp_path)
    assert (tmp_path / "front.png").stat().st_size > 10_000
