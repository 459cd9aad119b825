"""Addresses of object stores: what may be in one, and how it is shown to people."""

from urllib.parse import parse_qs, quote, unquote, urlsplit

from trainables.errors import InputError

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
# Parameters of addresses that are keys, or give rights to whoever has them; pyarrow would take some of them.
_SECRETS = frozenset({"access_key", "secret_key", "session_token", "account_key", "sas_token", "sig", "access_token"})
_TAKEN = ":/?#[]@!$&'()*+,;=%"  # by URIs, besides letters, digits and -._~


def require_address(address: str) -> None:
    """Check that an address is one of a store that is known, and can be written down.

    Raises:
        InputError: if it is not, or holds a password.
    """
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise InputError(
            f"{parts.scheme}://… is no storage that is known; an address begins with "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}"
        )
    has_key = parts.password is not None or (parts.username is not None and not parts.scheme.startswith("abfs"))
    if has_key or not _SECRETS.isdisjoint(parse_qs(parts.query, keep_blank_values=True)):
        raise InputError(
            f"the storage's address {parts.scheme}://… holds a key, which would be written down with the search; "
            "leave it out, and give it by the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.fragment or "//" in unquote(parts.path):
        raise InputError(
            f"the storage's address {shown(address)!r} has a # or an empty name in it; write %23 for a #, and one "
            "slash between names"
        )


def with_option(address: str, name: str, value: str) -> str:
    """An address of S3 that says an option, where it has not said it."""
    parts = urlsplit(address)
    if parts.scheme != "s3" or name in parse_qs(parts.query):
        return address
    return parts._replace(query="&".join(filter(None, [parts.query, f"{name}={value}"]))).geturl()


def shown(address: str) -> str:
    """An address without options, for people."""
    return urlsplit(address)._replace(query="").geturl()


def mend(address: str) -> str:
    """How to write an address that holds what no URI may, such as a space or an umlaut, to end a message with."""
    right = quote(shown(address), safe=_TAKEN)
    return "" if right == shown(address) else f"; write {right}"
