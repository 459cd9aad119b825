"""Which networks of a front are registered, under which aliases."""

from collections.abc import Callable

from orchestrator.front.front_view import FrontView
from orchestrator.front.pick import pick_each
from orchestrator.tracking.records import registering
from orchestrator.tracking.spool import Record
from orchestrator.words import percent


def registration(experiment: str, search: str, view: FrontView, export: Callable[[str], str]) -> Record:
    """The record by which all members of a front become versions of one registered model.

    Args:
        experiment: name of the MLflow experiment.
        search: name of the search.
        view: the front, not empty.
        export: gives the command that exports a network, by its label.
    """
    versions = [
        {
            "label": candidate.label,
            "trial": candidate.trial,
            "network": candidate.network,
            "tags": {
                "val_accuracy": f"{candidate.val_accuracy:.6g}",
                "macs_kept": f"{candidate.macs_kept:.6g}",
                "params_kept": f"{candidate.params_kept:.6g}",
            },
            "description": f"Network {candidate.label} of search {search}: {percent(candidate.val_accuracy, 2)} with "
            f"{percent(candidate.macs_kept, 2)} of the teacher's MACs. Export it: "
            f"`{export(candidate.label)}`",
        }
        for candidate in view.front
    ]
    aliases = {how: candidate.label for how, candidate in pick_each(view).items()}
    return registering(f"{experiment}-{search}", versions, aliases)
