"""What the overview page shows, read from a search's folder. Nothing is trained, and MLflow is not asked."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.addresses import mlflow_place
from orchestrator.experiment.config import Experiment
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.pareto import front, front_hypervolume, losses
from orchestrator.front.pick import pick_each
from orchestrator.overview.importance import Importance, importance
from orchestrator.searches.curves import End, TrialCurve, read_curves
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import read_front
from orchestrator.searches.layout import CURVES, LINKS, TEACHER_NETWORK
from trainables.errors import InputError
from trainables.results import TeacherResult

_LOCAL_UI = "http://127.0.0.1:5000"  # where `cascade ui` opens MLflow by default


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerKept:
    """One layer of one network.

    Attributes:
        layer: its name.
        kept: channels that it gives.
        full: channels that the teacher's gives.
    """

    layer: str
    kept: int
    full: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """Where runs are to be seen.

    Attributes:
        address: of MLflow's pages; empty where only `cascade ui` opens them.
        experiment_id: of the search's experiment.
        runs: id of each run, by key as `tracking.records` makes them.
    """

    address: str = ""
    experiment_id: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)

    def to(self, run: str) -> str | None:
        """The page of a run, or `None` where it is not known."""
        if run not in self.runs:
            return None
        place = mlflow_place(self.experiment_id, "runs", self.runs[run])
        return f"{(self.address or _LOCAL_UI).rstrip('/')}/{place}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """All that the page shows.

    Attributes:
        name: of the search.
        folder: of the search, which commands name.
        experiment: what was searched.
        view: the front.
        teacher: what it compares to.
        picks: way to pick → candidate.
        ends: how each trial ended, by number; `None` where the study is not read, and only curves tell.
        curves: of all trials that ended with an epoch or more.
        hypervolumes: of the front after each trial that gave candidates, by the trial's number.
        importances: what was predicted → what moved it.
        widths: of each member of the front, by label.
        links: to MLflow.
    """

    name: str
    folder: SearchFolder
    experiment: Experiment
    view: FrontView
    teacher: TeacherResult
    picks: Mapping[str, Candidate]
    ends: Mapping[int, End] | None
    curves: Sequence[TrialCurve]
    hypervolumes: Mapping[int, float]
    importances: Mapping[str, Importance]
    widths: Mapping[str, Sequence[LayerKept]]
    links: Links


def gather(folder: SearchFolder, links: Links | None = None) -> Overview:
    """Read what a search has found so far.

    Args:
        folder: of the search.
        links: to its runs; as they were noted last if left out.

    Raises:
        InputError: if there is no such search, or no trial of it is finished.
    """
    from orchestrator.sampling.conclusions import read_conclusions  # Optuna, which the courier need not wait for

    view, experiment, teacher = read_front(folder), folder.experiment(), folder.teacher_result()
    curves = _curves(folder)
    return Overview(
        name=folder.name,
        folder=folder,
        experiment=experiment,
        view=view,
        teacher=teacher,
        picks=pick_each(view),
        ends=read_conclusions(folder),
        curves=curves,
        hypervolumes=_hypervolumes(view, teacher),
        importances=_importances(curves, view),
        widths={candidate.label: _widths(folder, candidate) for candidate in view.front},
        links=links or read_links(folder.path / LINKS),
    )


def read_links(path: Path) -> Links:
    """Links as the courier noted them; none where it did not, or the note is damaged."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Links(address=plain["address"], experiment_id=plain["experiment_id"], runs=plain["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        return Links()


def _curves(folder: SearchFolder) -> tuple[TrialCurve, ...]:
    try:
        return read_curves(folder.path / CURVES)
    except InputError:  # of a search from before curves were kept, or whose trials are all at their first epoch
        return ()


def _hypervolumes(view: FrontView, teacher: TeacherResult) -> dict[int, float]:
    """Of the front of all candidates up to each trial; growing, so that only fronts are merged."""
    found: dict[int, float] = {}
    best: tuple[Candidate, ...] = ()
    for trial, own in sorted(_by_trial(view.candidates).items()):
        best = front((*best, *(c for c in own if c.key not in view.breaking)), view.objectives)
        found[trial] = front_hypervolume(best, view.objectives, teacher_latency_ms=teacher.latency_ms)
    return found


def _by_trial(candidates: Iterable[Candidate]) -> dict[int, list[Candidate]]:
    found: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.trial, []).append(candidate)
    return found


def _importances(curves: Sequence[TrialCurve], view: FrontView) -> dict[str, Importance]:
    """What moved the student's accuracy, and how far the trial is behind the front."""
    done = [curve for curve in curves if curve.end == "finished" and curve.results and curve.parameters]
    by_trial = _by_trial(view.candidates)
    done = [curve for curve in done if curve.trial in by_trial]
    parameters = [curve.parameters for curve in done]
    results = {
        "accuracy of the student": [curve.results[-1].val_accuracy for curve in done],
        "distance to the front": [min(_behind(c, view) for c in by_trial[curve.trial]) for curve in done],
    }
    found = {name: importance(parameters, values) for name, values in results.items()}
    return {name: one for name, one in found.items() if one is not None}


def _behind(candidate: Candidate, view: FrontView) -> float:
    """Accuracy that the front has above a candidate at its cost or below; 0 on the front."""
    costs = losses(candidate, [name for name in view.objectives if name != "val_accuracy"])
    others = [
        other.val_accuracy
        for other in view.front
        if all(
            theirs <= own
            for theirs, own in zip(
                losses(other, [name for name in view.objectives if name != "val_accuracy"]), costs, strict=True
            )
        )
    ]
    return max(0.0, max(others, default=-math.inf) - candidate.val_accuracy)


def _widths(folder: SearchFolder, candidate: Candidate) -> tuple[LayerKept, ...]:
    own = _plan(folder.path / candidate.network)
    dense = _plan(folder.teacher / TEACHER_NETWORK)
    return tuple(LayerKept(layer=layer, kept=own[layer][0], full=dense[layer][0]) for layer in dense if layer in own)


def _plan(network: Path) -> dict[str, tuple[int, int]]:
    """Widths of each layer out of a network's plan; none where it is missing or damaged, which export would say."""
    path = network / "architecture.json"  # named by what needs torch, which the courier need not wait for
    try:
        widths = json.loads(path.read_text(encoding="utf-8"))["widths"]
        return {str(name): (int(pair[0]), int(pair[1])) for name, pair in widths.items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
