"""The way to MLflow: its client, and the experiment that can be written to."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.addresses import database_uri, without_credentials
from orchestrator.searches.layout import ARTIFACTS
from orchestrator.tracking.database import make_database
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.views import NETWORKS, varied, views
from trainables.errors import InputError

# Set where the user has not: by default one call to a server that is down blocks for minutes.
_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
)
# Opens MLflow's pages for classic training instead of those for language models.
EXPERIMENT_TAGS: Mapping[str, str] = MappingProxyType({"mlflow.experimentKind": "custom_model_development"})
_LOOKED_AT = 200  # networks, for what a search varies


def is_server(uri: str) -> bool:
    """Whether an address is a server's, which people can open too."""
    return urlsplit(uri).scheme in ("http", "https", "databricks", "uc")


def is_own(uri: str, storage: Path) -> bool:
    """Whether an address is that of the storage folder's own database."""
    return uri == database_uri(storage)


def load_client(uri: str) -> Any:  # noqa: ANN401 - MLflow comes without types
    """The class of MLflow's client, with what it takes for an address: that is seconds, and makes nothing."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The SQLAlchemy that MLflow brings calls one of MLflow's own mappings out of date.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    from mlflow import MlflowClient

    if not is_server(uri):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    return MlflowClient


def connected(uri: str, storage: Path, experiment: str) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment, which is made if it is not there.

    Args:
        uri: MLflow's tracking address.
        storage: folder of the artifacts unless the address is a server's.
        experiment: its name.

    Raises:
        InputError: if the experiment was deleted, or its artifacts lie in a folder that cannot be written to.
        Exception: whatever MLflow raises.
    """
    client_of = load_client(uri)
    # MLflow announces each migration of a new database and each version of a model, and prints what it raises,
    # which is told in a line of ours.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if not is_server(uri):
        storage.mkdir(parents=True, exist_ok=True)
    if is_own(uri, storage):
        make_database(storage)
    client = client_of(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if is_own(uri, storage) and follow_move(storage):
        found = client.get_experiment_by_name(experiment)
    if found is None:
        artifacts = None if is_server(uri) else (storage / ARTIFACTS).as_uri()
        experiment_id = client.create_experiment(experiment, artifact_location=artifacts)
        found = client.get_experiment(experiment_id)
    if found.lifecycle_stage != "active":
        address = without_credentials(uri, uri)
        raise InputError(f"experiment {experiment!r} was deleted at {address}; restore it or choose another name")
    _require_writable(found.artifact_location)
    for name, value in EXPERIMENT_TAGS.items():  # also where it is set, to see that we may
        client.set_experiment_tag(found.experiment_id, name, value)
    keep_views(client, str(found.experiment_id))
    return client, str(found.experiment_id)


def keep_views(client: Any, experiment_id: str) -> None:  # noqa: ANN401 - MLflow comes without types
    """Save the views, with what the search that gave the newest network varies.

    Args:
        client: MLflow's.
        experiment_id: of the experiment.

    Raises:
        Exception: whatever MLflow raises.
    """
    newest_first = ["attributes.start_time DESC"]
    runs = client.search_runs([experiment_id], NETWORKS, order_by=newest_first, max_results=_LOOKED_AT)
    searches = [run.data.tags.get("cascade.search_id") for run in runs]
    params = varied([run.data.params for run, search in zip(runs, searches, strict=True) if search == searches[0]])
    kept = client.get_experiment(experiment_id).tags
    for name, value in (view.tag for view in views(params).values()):
        if kept.get(name) != value:
            client.set_experiment_tag(experiment_id, name, value)


def _require_writable(artifacts: str) -> None:
    """Refuse a folder of artifacts on this machine that nothing can be written to."""
    parts = urlsplit(artifacts)
    if parts.scheme not in ("", "file"):
        return
    folder = existing = Path(unquote(parts.path))
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"MLflow's artifacts go to {folder}, but {existing} cannot be written to; change its permissions, or "
            "choose another tracking.experiment"
        )
