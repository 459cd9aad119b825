"""What the courier makes of a search beside its figures: the overview page, and registered networks."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.overview.gather import Links
from orchestrator.overview.page import write_overview
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import read_front
from orchestrator.searches.layout import LINKS
from orchestrator.storage.whole_files import write_atomically
from orchestrator.tracking.records import SEARCH
from orchestrator.tracking.registry import Package, Registry
from orchestrator.tracking.store import MlflowStore, SearchIdentity
from orchestrator.words import percent
from trainables.errors import InputError
from trainables.imports import import_function, is_import_path


class SearchPages:
    """Draws and registers what lies in the search's folder."""

    def __init__(
        self, warn: Callable[[str], None], *, fetch: Callable[[Sequence[str]], None] = lambda _networks: None
    ) -> None:
        """Take the parts.

        Args:
            warn: hears of networks that cannot be registered.
            fetch: brings networks, by their folders in the search's, to this machine.
        """
        self._warn, self._fetch = warn, fetch
        self._registry: Registry | None = None

    def draw(self, store: MlflowStore, search: SearchIdentity) -> None:
        """Draw the overview and keep it with the search; nothing where no trial has given a network."""
        links = Links(
            address=store.address if store.is_server else "",
            experiment_id=store.experiment_id,
            runs=store.run_ids(),
        )
        note = {"address": links.address, "experiment_id": links.experiment_id, "runs": dict(links.runs)}
        write_atomically(search.folder / LINKS, (json.dumps(note) + "\n").encode())
        folder = SearchFolder(storage=search.folder.parent, name=search.folder.name)
        try:
            view = read_front(folder)
            with suppress(InputError):  # the page is without what one lacks
                self._fetch([candidate.network for candidate in view.front])
            page, knee = write_overview(folder, links), view.knee
        except InputError:  # nothing to show yet
            return
        store.copy(SEARCH, page, "")
        store.keep_views()
        if knee is not None:
            store.describe(
                f"take network **{knee.label}** when in doubt, {percent(knee.val_accuracy, 2)} with "
                f"{percent(knee.macs_kept, 2)} of the teacher's MACs"
            )

    def register(self, store: MlflowStore, search: SearchIdentity, record: dict[str, Any]) -> None:
        """Register networks, and move aliases."""
        if self._registry is None:
            self._registry = Registry(store, search, package=self._packing(search), warn=self._warn)
        self._registry.take(record)

    def _packing(self, search: SearchIdentity) -> Package:
        """How networks of a search are packed; one of the user's own by the function that its experiment names."""
        from orchestrator.tracking.packaging import package_network  # torch, which only this needs

        name = SearchFolder(storage=search.folder.parent, name=search.folder.name).experiment().model.name
        builder = import_function(name, key="model.name") if is_import_path(name) else None

        def pack(network: Path, destination: Path) -> None:
            self._fetch([network.relative_to(search.folder).as_posix()])
            package_network(network, destination, builder=builder)

        return pack
