"""Networks of the front as versions of one registered model, and aliases that move with the front."""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.tracking.faults import cause_of
from orchestrator.tracking.known_runs import LOST
from orchestrator.tracking.records import label_keys
from orchestrator.tracking.spool import Record
from orchestrator.tracking.store import MlflowStore, SearchIdentity

_CANDIDATE = "cascade.candidate"
_KIND = "cascade.kind"
_NOT_IN_NAMES = "/:'\""  # MLflow refuses the first two, and cannot look for the others
Package = Callable[[Path, Path], None]
"""Writes the network of one folder as an MLflow model into another."""


class Registry:
    """The registered model of one search."""

    def __init__(self, store: MlflowStore, search: SearchIdentity, *, package: Package, warn: Callable[[str], None]):
        """Take the parts.

        Args:
            store: MLflow.
            search: whose networks.
            package: makes a model of a network.
            warn: takes a line of a network that cannot be one.
        """
        self._store, self._search = store, search
        self._package, self._warn = package, warn
        self._cannot_be: set[str] = set()

    def take(self, record: Record) -> None:
        """Make versions of what has none yet, flag those of the front, and move the aliases.

        Args:
            record: as `records.registering` makes it.

        Raises:
            Exception: whatever MLflow raises; taking the record again goes on where it was.
        """
        name = self._model(model_name(record["model"]))
        client = self._store.client
        versions = self._versions(name)
        lost = self._lost(name, versions)
        known = {version.tags.get(_CANDIDATE): version for version in versions if version.version not in lost}
        numbers = {label: str(version.version) for label, version in known.items()}
        on_front = {wanted["label"] for wanted in record["versions"]}
        for wanted in record["versions"]:
            label = wanted["label"]
            if label not in numbers and label not in self._cannot_be:
                number = self._make(name, wanted)
                if number is not None:
                    numbers[label] = number
                    client.set_model_version_tag(name, number, "front", "true")
        for version in versions:
            label = version.tags.get(_CANDIDATE)
            flag = "true" if label in on_front and version is known.get(label) else "false"
            if version.tags.get("front") != flag:
                client.set_model_version_tag(name, str(version.version), "front", flag)
        now = {str(alias): str(number) for alias, number in client.get_registered_model(name).aliases.items()}
        for alias, label in record["aliases"].items():
            if label in numbers and now.get(alias) != numbers[label]:
                client.set_registered_model_alias(name, alias, numbers[label])

    def _model(self, name: str) -> str:
        """The registered model's name: the one asked for, or with a part of the search's id where another has that."""
        own = self._search.search_id
        for chosen in (name, f"{name}-{own[:8]}"):
            found = self._store.client.search_registered_models(f"name = '{chosen}'")
            if not found:
                self._store.client.create_registered_model(
                    chosen,
                    tags={"cascade.search_id": own},
                    description=f"Networks that are or were on the front of search {self._search.name}, each a "
                    "version. Aliases: `knee` when in doubt, `smallest`, `most-accurate`; they move as the front does.",
                )
                return chosen
            if found[0].tags.get("cascade.search_id") == own:
                return chosen
        raise LookupError(f"registered models {name} and {name}-{own[:8]} are of other searches")

    def _versions(self, name: str) -> list[Any]:
        """All versions, the newest last."""
        found = self._store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
        return sorted(found, key=lambda version: int(version.version))

    def _lost(self, name: str, versions: Sequence[Any]) -> set[Any]:
        """Numbers of versions of trials that the search has lost; they say so too, as people may delete the runs."""
        runs = self._store.lost_run_ids()
        for version in versions:
            if version.run_id in runs and version.tags.get(_KIND) != LOST:
                self._store.client.set_model_version_tag(name, str(version.version), _KIND, LOST)
        return {one.version for one in versions if one.run_id in runs or one.tags.get(_KIND) == LOST}

    def _make(self, name: str, wanted: Mapping[str, Any]) -> str | None:
        label = wanted["label"]
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "model"
            try:
                self._package(self._search.folder / wanted["network"], packed)
            except Exception as error:
                self._cannot_be.add(label)
                self._warn(f"network {label} cannot be registered: {cause_of(error)}")
                return None
            return self._upload(name, wanted, packed)

    def _upload(self, name: str, wanted: Mapping[str, Any], packed: Path) -> str:
        client, runs = self._store.client, self._store.run_ids()
        trial, network = label_keys(wanted["label"])
        tags = {**wanted["tags"], _CANDIDATE: wanted["label"], "cascade.search_id": self._search.search_id}
        model = client.create_logged_model(
            self._store.experiment_id,
            name=f"network-{wanted['label'].replace(':', '-')}",
            source_run_id=runs.get(network),
            tags=tags,
        )
        client.log_model_artifacts(model.model_id, str(packed))
        client.finalize_logged_model(model.model_id, "READY")
        run_id = runs.get(trial)  # None if it was deleted
        version = client.create_model_version(
            name,
            source=model.artifact_location,  # models:/ would be looked up at the process's own address
            run_id=run_id,
            tags=tags,
            description=wanted["description"],
            model_id=model.model_id if run_id else None,  # without a run, looked up there too
        )
        return str(version.version)


def model_name(wanted: str) -> str:
    """A registered model's name, close to the wanted one: an experiment's, which is part of it, may be a path.

    Args:
        wanted: such as `/Shared/team-demo`, which gives `Shared-team-demo`.
    """
    return re.sub(f"[{_NOT_IN_NAMES}]", "-", wanted.lstrip(_NOT_IN_NAMES))
