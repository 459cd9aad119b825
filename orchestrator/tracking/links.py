"""Addresses of MLflow's pages on what searches and studies found.

Its server is asked as browsers ask it: MLflow's own client takes seconds to import, which people would wait for.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any

from orchestrator.addresses import mlflow_place
from orchestrator.evidence.folder import REPORT
from orchestrator.searches.layout import OVERVIEW
from orchestrator.tracking.views import VIEWS

_PAGES = (("search", "overview", OVERVIEW), ("study", "report", REPORT))


def runs_page(address: str) -> str:
    """Where to look: the runs of the experiment that was last worked on.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
    """
    runs = _latest_runs(address, "", 1)
    place = mlflow_place(runs[0]["info"]["experiment_id"], "runs") if runs else mlflow_place()
    return f"{address}/{place}"


def best_page(address: str) -> str:
    """Where the networks of all fronts are, the most accurate first.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
    """
    runs = _latest_runs(address, "", 1)
    return address + VIEWS["front"].place(runs[0]["info"]["experiment_id"]) if runs else f"{address}/{mlflow_place()}"


def found_pages(address: str, storage: Path) -> dict[str, str]:
    """Pages on what the latest searches and studies found, by what they are, the newest first.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
        storage: folder of the searches; a study's report may lie in it alone.
    """
    pages: dict[str, str] = {}
    for kind, what, file in _PAGES:
        for run in _latest_runs(address, f"tags.`cascade.kind` = '{kind}'", 5):
            info = run["info"]
            about, page = f"{what} of {info['run_name']}", ""
            if file in _artifacts(address, info["run_id"]):
                place = mlflow_place(info["experiment_id"], "runs", info["run_id"], "artifacts", file)
                page = f"{address}/{place}"
            elif kind == "study" and (storage / info["run_name"] / file).is_file():
                page = (storage.resolve() / info["run_name"] / file).as_uri()
            if page:
                pages.setdefault(about, page)
    return pages


def _artifacts(address: str, run_id: str) -> set[str]:
    """Files of a run, without those in folders; none where their store does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/artifacts/list?run_id={run_id}", timeout=30) as answer:
            return {file["path"] for file in json.load(answer).get("files", [])}
    except OSError:
        return set()


def _latest_runs(address: str, which: str, number: int) -> list[Any]:
    experiments = _post(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1000}).get("experiments", [])
    ids = [experiment["experiment_id"] for experiment in experiments]
    query = {
        "experiment_ids": ids,
        "filter": which,
        "order_by": ["attributes.start_time DESC"],
        "max_results": number,
    }
    runs: list[Any] = _post(f"{address}/api/2.0/mlflow/runs/search", query).get("runs", []) if ids else []
    return runs


def _post(url: str, content: object) -> Any:  # noqa: ANN401 - JSON
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
