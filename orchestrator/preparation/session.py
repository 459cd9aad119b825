"""Ray, for as long as a command needs it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray

from orchestrator.experiment.machine_rules import AUTO, LOCAL
from orchestrator.experiment.resources import Resources
from orchestrator.machines.cluster import check_kinds, check_resources, check_together
from orchestrator.machines.joining import OWN_LABEL, answers, joining, require_shared
from orchestrator.machines.rank_actors import RankActors
from orchestrator.preparation.packing import where_there_is_no_card
from orchestrator.signals import ended_with, terminated_as_interrupted


@contextmanager
def ray_session(resources: Resources, *, per: str = "_per_trial") -> Iterator[float]:
    """Ray, started on this machine or joined, and left as it was found; yields the CPUs that it has.

    Args:
        resources: what a trial and the teacher take.
        per: ends the names of the keys that say what a trial takes; empty for a study's, which say it of a run.

    Raises:
        InputError: if it is not there, or has less than one trial takes.
    """
    # Functions of the user's own lie in the current folder; workers must find them too.
    python_path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": python_path}}}
    if resources.address == LOCAL:
        # Workers of this machine's own Ray inherit it, which starts them faster than an environment of their own.
        os.environ["PYTHONPATH"] = python_path
        options = {"include_dashboard": False, "labels": {OWN_LABEL: "true"}}
    with joining(resources.address):
        ray.init(address=resources.address, log_to_driver=False, logging_level="ERROR", **options)
    try:
        if resources.address == AUTO:
            require_shared()
        resources = where_there_is_no_card(resources)
        available_cpus = check_resources(_asked(resources, per), address=resources.address)
        check_kinds(_kinds(resources))
        check_together(
            {
                "a trial (resources)": RankActors.of_trial(resources).needs,
                "the teacher (resources.teacher)": RankActors.of_teacher(resources).needs,
            }
        )
        # From here on, as Ray has just set what SIGTERM does: a dump, and no end.
        with terminated_as_interrupted(), ended_with(partial(_is_gone, ray.get_runtime_context().gcs_address)):
            yield available_cpus
    finally:
        ray.shutdown()


def _is_gone(address: str) -> bool:
    """Whether nobody answers where Ray did: its server takes no calls any more as soon as it is told to end."""
    return not answers(address, seconds=1.0)


def _asked(resources: Resources, per: str) -> dict[str, tuple[str, float]]:
    asked = {f"resources.cpus{per}": ("CPU", resources.cpus_per_trial)}
    if resources.gpus_per_trial != AUTO:
        asked[f"resources.gpus{per}"] = ("GPU", resources.gpus_per_trial)
    if resources.teacher is not None:
        asked["resources.teacher.cpus"] = ("CPU", resources.teacher.cpus)
        asked["resources.teacher.gpus"] = ("GPU", resources.teacher.gpus)
    return asked


def _kinds(resources: Resources) -> dict[str, str]:
    """Kinds of cards that are asked for, by the key that says so."""
    teacher = None if resources.teacher is None else resources.teacher.gpu_kind
    kinds = {"resources.gpu_kind": resources.gpu_kind, "resources.teacher.gpu_kind": teacher}
    return {key: kind for key, kind in kinds.items() if kind is not None}
