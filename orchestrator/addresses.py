"""Addresses of tracking servers and databases: which one is used, and how one is shown."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote

_ADDRESS = re.compile(r"""[a-z][a-z0-9+.-]*://(?:[^\s",}\]]*@)?[^\s"',}\]]*""", re.IGNORECASE)
_MARKS = re.compile("[/?#]")
_SHORTEST_PIECE = 3
_SECRET_NAME = re.compile("pass|pwd|token|secret|key", re.IGNORECASE)


def database_file(storage: Path) -> Path:
    """The tracking database in a folder of searches."""
    return storage.resolve() / "mlflow.db"


def database_uri(storage: Path) -> str:
    """Address of the tracking database in a folder of searches."""
    return f"sqlite:///{database_file(storage)}"


def tracking_uri(given: str | None, storage: Path) -> str:
    """Where a search is tracked: its own address, else `MLFLOW_TRACKING_URI`, else a database in the storage folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(storage)


def without_credentials(text: str, uri: str) -> str:
    """A text without what an address holds of user, password and query.

    Args:
        text: the address itself, or a message in which parts of it may stand.
        uri: the address.
    """
    scheme, userinfo, place, query = _parted(uri)
    text = text.replace(uri, f"{scheme}{place}")
    password = userinfo.partition(":")[2]
    in_query = [value for name, value in parse_qsl(query) if _SECRET_NAME.search(name)]
    # Who reads addresses by the book ends at the first of these marks, and says what is before it.
    pieces = [piece for piece in _MARKS.split(password) if len(piece) >= _SHORTEST_PIECE]
    for secret in (query, userinfo, password, unquote(password), *in_query, *pieces):
        text = text.replace(secret, "***") if secret else text
    return text


def without_all_credentials(text: str) -> str:
    """A text in which addresses may stand anywhere, without what they hold of user, password and query."""
    for address in _ADDRESS.findall(text):
        text = text.replace(address, without_credentials(address, address))
    return text


def _parted(uri: str) -> tuple[str, str, str, str]:
    """Scheme with its slashes, user with password, what may be shown, and query.

    A password may hold what should stand there encoded, as databases take it: all before the last @ is secret then.
    """
    scheme, slashes, rest = uri.partition("://")
    first = _MARKS.split(rest)[0]
    port_and_query = re.fullmatch(r"[^@:]+:\d+", first) and "@" not in rest.partition("?")[0]
    userinfo = ""
    if "@" in first or (":" in first and not port_and_query):
        userinfo, _, rest = rest.rpartition("@")
    place, _, query = rest.partition("?")
    return scheme + slashes, userinfo, place, query
