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

_TAG = "mlflow.sharedViewState."
_NETWORKS, _TRIALS = "tags.cascade.kind = 'network'", "tags.cascade.kind = 'trial'"


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
        return (
            f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={self.key}"
            f"&compareRunsMode={self.mode}"
        )


def _columns(*names: str) -> list[str]:
    kinds = {"front": "tags", "sizes": "tags", "export": "tags", "failure": "tags", "num_assistants": "params"}
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


_FOUND = _columns("val_accuracy", "macs_kept", "params_kept", "latency_ms")
_CHARTS = (
    _scatter("macs_kept", "val_accuracy"),
    _parallel(("num_assistants", "temperature", "distillation_weight", "learning_rate"), ("macs_kept", "val_accuracy")),
)
VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "front": View(
            key="cascade-front",
            name="The front: best networks",
            mode="TABLE",
            state=_state(
                f"tags.front = 'true' and {_NETWORKS}",
                columns=[*_FOUND, *_columns("export", "num_assistants")],
                order="val_accuracy",
                charts=_CHARTS,
            ),
        ),
        "networks": View(
            key="cascade-networks",
            name="All networks, as charts",
            mode="CHART",
            state=_state(_NETWORKS, columns=[*_FOUND, *_columns("front")], order="val_accuracy", charts=_CHARTS),
        ),
        "trials": View(
            key="cascade-trials",
            name="All trials, with their parameters",
            mode="TABLE",
            state=_state(
                _TRIALS,
                columns=[*_FOUND, *_columns("front", "sizes", "failure", "num_assistants")],
                order="val_accuracy",
                charts=_CHARTS,
            ),
        ),
    }
)
"""By what they show."""
