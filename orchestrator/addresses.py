"""Where searches are kept, and addresses of tracking servers and databases: which one is used, and how it is shown."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from trainables.plain import at_home

DEFAULT_STORAGE = "runs"
"""Folder of searches and studies where no other is given, in the current one."""

_ADDRESS = re.compile(r"""(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://(?:[^\s",}\]]*@)?[^\s"',}\]]*""", re.IGNORECASE)
_SCHEME = re.compile("[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FILE_AT_HOME = re.compile("(sqlite(?:[+][a-z0-9]+)?:///)(~.*)", re.IGNORECASE)
_MARKS = re.compile("[/?#]")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^@:\[\]]+)(:\d+)?")
_SHORTEST_SECRET = 3
_SECRET_NAME = re.compile("pass|pwd|token|secret|key", re.IGNORECASE)


def database_file(storage: Path) -> Path:
    """The tracking database in a folder of searches."""
    return storage.resolve() / "mlflow.db"


def database_uri(storage: Path) -> str:
    """Address of the tracking database in a folder of searches, as SQLAlchemy reads it."""
    path = str(database_file(storage))
    quoted = path.replace("%", "%25").replace("?", "%3F")
    # MLflow takes all behind a bare sqlite:/// for a path, and would make a folder of the quoted name.
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def tracking_uri(given: str | None, storage: Path) -> str:
    """Where a search is tracked: its own address, else `MLFLOW_TRACKING_URI`, else a database in the storage folder."""
    return database_at_home(given or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(storage))


def database_at_home(address: str) -> str:
    """An address; of a SQLite file in the user's home with its whole path, as nobody else knows what `~` is there.

    Raises:
        InputError: as `at_home`.
    """
    parts = _FILE_AT_HOME.fullmatch(address)
    return address if parts is None else f"{parts[1]}{at_home(parts[2])}"


def mlflow_place(*parts: str) -> str:
    """Where a page of MLflow's on experiments is, after the slash behind its server's address.

    A fresh browser would otherwise show MLflow's pages for language models.

    Args:
        parts: that lead there, such as `1` and `runs`; none for all experiments.
    """
    return f"#/{'/'.join(('experiments', *parts))}?workflowType=machine_learning"


def without_credentials(text: str, uri: str) -> str:
    """A text without what an address holds of user, password and query.

    Args:
        text: the address itself, or a message in which parts of it may stand.
        uri: the address.
    """
    scheme, userinfo, place, query = _parted(uri)
    if text == uri:
        return f"{scheme}{place}"
    password = userinfo.partition(":")[2]
    in_query = [value for name, value in parse_qsl(query) if _SECRET_NAME.search(name)]
    # Who reads addresses by the book ends at the first of these marks, and says what is before it.
    secrets = [query, userinfo, password, unquote(password), *in_query, *_MARKS.split(password)]
    between = text.split(uri)  # what is shown of the address stays as it is, whatever stands in it too
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            between = [part.replace(secret, "***") for part in between]
    return f"{scheme}{place}".join(between)


def without_all_credentials(text: str) -> str:
    """A text in which addresses may stand anywhere, without what they hold of user, password and query."""
    return _ADDRESS.sub(lambda found: without_credentials(found[0], found[0]), text)


def setting_without_credentials(setting: str) -> str:
    """What is given to `--set`, without credentials; of a value that is an address, every sign belongs to it."""
    key, equals, value = setting.partition("=")
    if _SCHEME.match(value):
        return f"{key}{equals}{without_credentials(value, value)}"
    return without_all_credentials(setting)


def without_all_secrets(text: str, *sources: str) -> str:
    """A text without the credentials of addresses in it, nor of those in other texts, whole or in parts.

    Args:
        text: such as a traceback.
        sources: where else addresses stand whose secrets may be in it.
    """
    for address in dict.fromkeys(address for source in (text, *sources) for address in _ADDRESS.findall(source)):
        text = without_credentials(text, address)
    return without_all_credentials(text)


def _parted(uri: str) -> tuple[str, str, str, str]:
    """Scheme with its slashes, user with password, what may be shown, and query.

    A password may hold what should stand there encoded, as databases take it: all before the last @ is secret then.
    """
    scheme, slashes, rest = uri.partition("://")
    first = _MARKS.split(rest)[0]
    userinfo = ""
    if "@" in first or (":" in first and not _HOST_AND_PORT.fullmatch(first)):
        userinfo, _, rest = rest.rpartition("@")
    place, _, query = rest.partition("?")
    return scheme + slashes, userinfo, place, query
