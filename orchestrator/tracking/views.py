"""Views of the runs page that are there when people open MLflow: the front first of all.

Saved views are an internal of MLflow's pages (tried with 3.17): where they change, the page opens as it would without.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from orchestrator.addresses import mlflow_place

_TAG = "mlflow.sharedViewState."
NETWORKS, _TRIALS = "tags.cascade.kind = 'network'", "tags.cascade.kind = 'trial'"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One view of an experiment's runs.

    Attributes:
        key: in its address.
        name: for people.
        mode: `CHART` or the table, `TABLE`.
        state: what MLflow's page keeps of it.
    """

    key: str
    name: str
    mode: str
    state: Mapping[str, Any]

    @property
    def tag(self) -> tuple[str, str]:
        """Name and value of the experiment's tag that holds it."""
        packed = base64.b64encode(zlib.compress(json.dumps(self.state, sort_keys=True).encode())).decode()
        content = {"name": self.name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
        return f"{_TAG}{self.key}", json.dumps(content)

    def place(self, experiment_id: str) -> str:
        """Where it is, after a server's address."""
        place = mlflow_place(experiment_id, "runs")
        return f"/{place}&viewStateShareKey={self.key}&compareRunsMode={self.mode}"


def _columns(*names: str) -> list[str]:
    tags = dict.fromkeys(("search", "front", "sizes", "export", "failure"), "tags")
    kinds = {**tags, "num_assistants": "params"}
    return [f"{kinds.get(name, 'metrics')}.`{name}`" for name in names]


def _state(
    which: str, *, columns: Sequence[str], order: str, charts: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    section = "cascade-section"
    return {
        "searchFilter": which,
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsVisibilityMap": {},
        "compareRunCharts": [
            {"deleted": False, "isGenerated": False, "metricSectionId": section, "uuid": f"cascade-{index}", **chart}
            for index, chart in enumerate(charts)
        ],
        "compareRunSections": [
            {"uuid": section, "name": "Cascade", "display": True, "isReordered": False, "columns": 1}
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
        "chartsSearchFilter": "",
    }


def _scatter(x: str, y: str) -> dict[str, Any]:
    axes = {name: {"key": key, "type": "METRIC"} for name, key in (("xaxis", x), ("yaxis", y))}
    return {"type": "SCATTER", "runsCountToCompare": 500, **axes}


def _parallel(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "PARALLEL",
        "runsCountToCompare": 500,
        "selectedParams": list(params),
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }


_FOUND = _columns("search", "val_accuracy", "macs_kept", "params_kept", "latency_ms")
_FIRST = ("num_assistants", "schedule", "temperature", "distillation_weight", "learning_rate")
_MOST_PARAMS, _LONGEST_PARAM = 8, 60  # MLflow refuses tags of more than 5,000 characters


def varied(runs: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Parameters by which runs can be told apart: MLflow hides a chart of parallel coordinates that no run fills.

    Args:
        runs: parameters of each network.

    Returns:
        Names that all of them have, well known ones first: those whose values differ, or else all.
    """
    if not runs:
        return _FIRST[:1]
    everywhere = set.intersection(*(set(params) for params in runs))
    # Sizes that were asked for are nearly those that came out, which are on the chart.
    told_elsewhere = {name for name in everywhere if name == "level" or name.endswith("_macs_kept_asked")}
    searched = [name for name in everywhere - told_elsewhere if len(name) <= _LONGEST_PARAM]
    known = {name: place for place, name in enumerate(_FIRST)}
    names = sorted(searched, key=lambda name: (known.get(name, len(known)), name))
    differing = [name for name in names if len({params[name] for params in runs}) > 1]
    return tuple((differing or names)[:_MOST_PARAMS])


def views(params: Sequence[str]) -> Mapping[str, View]:
    """All views, by what they show.

    Args:
        params: on the chart of parallel coordinates, and in the table of trials.
    """
    shown = [f"params.`{name}`" for name in dict.fromkeys(("num_assistants", *params))]
    charts = (_scatter("macs_kept", "val_accuracy"), _parallel(params, ("macs_kept", "val_accuracy")))
    return MappingProxyType(
        {
            "front": View(
                key="cascade-front",
                name="The front: best networks",
                mode="TABLE",
                state=_state(
                    f"tags.front = 'true' and {NETWORKS}",
                    columns=[*_FOUND, *_columns("export", "num_assistants")],
                    order="val_accuracy",
                    charts=charts,
                ),
            ),
            "networks": View(
                key="cascade-networks",
                name="All networks, as charts",
                mode="CHART",
                state=_state(NETWORKS, columns=[*_FOUND, *_columns("front")], order="val_accuracy", charts=charts),
            ),
            "trials": View(
                key="cascade-trials",
                name="All trials, with their parameters",
                mode="TABLE",
                state=_state(
                    _TRIALS,
                    columns=[*_FOUND, *_columns("front", "sizes", "failure"), *shown],
                    order="val_accuracy",
                    charts=charts,
                ),
            ),
        }
    )


VIEWS: Mapping[str, View] = views(varied(()))
"""As they are before there is a network."""
