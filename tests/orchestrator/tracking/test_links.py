from pathlib import Path

import pytest

from orchestrator.tracking.links import best_page, found_pages, runs_page


def test_links_lead_to_pages_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"search": ["young", "done"], "study": ["sent", "kept", "killed"]}
    files = {"young": {"config.yaml"}, "done": {"overview.html"}, "sent": {"report.html"}}

    def latest(_address: str, which: str, _number: int) -> list[object]:
        (names,) = (names for kind, names in kinds.items() if f"'{kind}'" in which)
        return [{"info": {"run_name": name, "run_id": name, "experiment_id": "1"}} for name in names]

    monkeypatch.setattr("orchestrator.tracking.links._latest_runs", latest)
    monkeypatch.setattr("orchestrator.tracking.links._artifacts", lambda _address, run_id: files.get(run_id, set()))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/report.html").touch()
    assert found_pages("http://here", tmp_path) == {
        "overview of done": "http://here/#/experiments/1/runs/done/artifacts/overview.html?workflowType=machine_learning",
        "report of sent": "http://here/#/experiments/1/runs/sent/artifacts/report.html?workflowType=machine_learning",
        "report of kept": (tmp_path / "kept/report.html").as_uri(),
    }


def test_where_nothing_ran_pages_are_those_for_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.links._latest_runs", lambda *_: [])
    for page in (runs_page, best_page):
        assert page("http://here") == "http://here/#/experiments?workflowType=machine_learning"
