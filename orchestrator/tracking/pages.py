"""What the courier makes of a search beside its figures: the overview page, and registered networks."""

from typing import Any

from orchestrator.tracking.store import MlflowStore, SearchIdentity


class SearchPages:
    """Draws and registers what lies in the search's folder."""

    def draw(self, store: MlflowStore, search: SearchIdentity) -> None:
        """Draw the overview and keep it with the search."""

    def register(self, store: MlflowStore, search: SearchIdentity, record: dict[str, Any]) -> None:
        """Register networks, and move aliases."""
