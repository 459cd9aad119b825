"""Addresses of tracking servers and databases: which one is used, and how one is shown."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

_ADDRESS = re.compile(r"""[a-z][a-z0-9+.-]*://[^\s"',}\]]+""", re.IGNORECASE)
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
    parts = urlsplit(uri)
    userinfo = parts.netloc.rpartition("@")[0]
    bare = uri.partition("?")[0]
    text = text.replace(uri, bare.replace(f"{userinfo}@", "", 1) if userinfo else bare)
    in_query = [value for name, value in parse_qsl(parts.query) if _SECRET_NAME.search(name)]
    for secret in (parts.query, userinfo, parts.password, unquote(parts.password or ""), *in_query):
        text = text.replace(secret, "***") if secret else text
    return text


def without_all_credentials(text: str) -> str:
    """A text in which addresses may stand anywhere, without what they hold of user, password and query."""
    for address in _ADDRESS.findall(text):
        text = text.replace(address, without_credentials(address, address))
    return text
