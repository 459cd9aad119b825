"""How a process comes into a cluster, and what keeps it out."""

import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from trainables.errors import InputError

OWN_LABEL = "cascade-own"
"""Ray's label of the one machine of a Ray that a search has started for itself."""
_START_ONE = "--set resources.address=local starts one on this machine"
_HEAD_SECONDS = 10.0


@contextmanager
def joining(address: str, *, mend: str = _START_ONE) -> Iterator[None]:
    """Say what keeps this process out of a cluster, in one line.

    Args:
        address: what `resources.address` says.
        mend: what to do where there is no Ray.

    Raises:
        InputError: if no Ray answers there, or its version, its Python or its token is another.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"resources.address is {address!r}, but a search must run on a machine of the cluster; start it there with "
            "`ray submit` or `ray job submit` and address auto"
        )
    if ":" in address and not answers(address, seconds=_HEAD_SECONDS):  # Ray itself would try for minutes
        raise InputError(f"resources.address is {address!r}, but nothing answers there; {mend}")
    try:
        yield
    except (ConnectionError, AuthenticationError) as error:
        if AuthenticationError.__name__ in f"{type(error).__name__} {error.__cause__}":  # Ray may tell it as a failure
            raise InputError(
                f"resources.address is {address!r}, but Ray there does not take this machine's token; set "
                "RAY_AUTH_MODE=token, and have the same ~/.ray/auth_token on all machines"
            ) from error
        raise InputError(f"resources.address is {address!r}, but no Ray answers there ({error}); {mend}") from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        here = f"Ray {ray.__version__} and Python {platform.python_version()}"
        there = [line.split(": ")[1].strip() for line in str(error).splitlines() if line.startswith("    ")]
        raise InputError(
            f"the cluster runs Ray {there[0]} and Python {there[1]}, but this process runs {here}; use the environment "
            "that the cluster was started with, or start the cluster anew from this one"
        ) from error


def answers(address: str, *, seconds: float) -> bool:
    """Whether anybody takes calls at HOST:PORT; who waits longer than so many seconds for it has had none."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, UnicodeError):  # an address that is none, too
        return False
    return True


def require_shared() -> None:
    """Refuse the Ray of another search, which found on the way to a cluster ends with that search. Needs Ray.

    Raises:
        InputError: if it is one.
    """
    if any(node["Labels"].get(OWN_LABEL) for node in ray.nodes()):
        raise InputError(
            "resources.address is 'auto', but the Ray that runs here belongs to another search and ends with it; "
            "start a cluster by `ray start --head` and give its address, or use local"
        )
