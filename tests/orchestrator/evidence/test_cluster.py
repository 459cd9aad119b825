"""Runs as tasks of a cluster, which is not there: what it says of tasks is made up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.evidence import cluster
from orchestrator.evidence.cluster import run_on_ray
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import RunResult
from orchestrator.evidence.settings import Run

RAISED = ray.exceptions.RayTaskError("_work", "Traceback of many lines", RuntimeError("CUDA out of memory"))
DIED = ray.exceptions.WorkerCrashedError()


@pytest.mark.parametrize(
    ("error", "why"),
    [(RAISED, "RuntimeError: CUDA out of memory"), (DIED, "WorkerCrashedError: The worker died unexpectedly")],
)
def test_a_run_is_lost_for_its_own_reason(
    plain, tmp_path, monkeypatch, result_of: Callable[[Run], RunResult], error: Exception, why: str
) -> None:
    def come_to(run: Run) -> RunResult:
        if (run.arm, run.seed) == ("plain", 1):
            raise error
        return result_of(run)

    def remote(**_: Any) -> Callable[..., Any]:
        return lambda _: SimpleNamespace(remote=lambda plan, run, arrays, teacher: run)

    made_up = SimpleNamespace(
        put=lambda value: value,
        remote=remote,
        wait=lambda tasks: (tasks[:1], tasks[1:]),
        get=come_to,
        cluster_resources=lambda: {"CPU": 2.0},
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr(cluster, "ray", made_up)
    monkeypatch.setattr(cluster, "_teacher", lambda *_: {})
    images: Any = SimpleNamespace(to_arrays=dict)
    done, said = list[RunResult](), list[str]()
    plan = StudyPlan.from_dict(plain)
    assert run_on_ray(plan, images, tmp_path, {}, done=done.append, say=said.append) == 1
    assert [(result.arm, result.seed) for result in done] == [("scratch", 1), ("plain", 2), ("scratch", 2)]
    (line,) = said
    assert line.startswith(f"measured plain, size 0.3, seed 1, rate 0.05: lost ({why}")
