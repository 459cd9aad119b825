"""What searches and studies alike may ask of machines."""

import re
from typing import Literal

from trainables.errors import InputError

LOCAL = "local"
"""The address of a Ray that is started on this machine."""
AUTO: Literal["auto"] = "auto"
"""The address of the cluster that this machine is part of; in place of a number of GPUs: as large a part of a card as a
trial is seen to take."""

_HOST_AND_PORT = re.compile(r"(ray://)?[^\s/]+:\d{1,5}")


def require_cards(key: str, gpus: float) -> None:
    """Check that so many GPUs are a part of one, or all of several.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"{key} is {gpus:g}, but must be a fraction of one GPU or a whole number of them")


def require_address(address: str) -> None:
    """Check that a Ray may be there.

    Raises:
        InputError: naming the rule and the value.
    """
    if address not in (LOCAL, AUTO) and not _HOST_AND_PORT.fullmatch(address):
        raise InputError(f"{address!r} is given, but must be {LOCAL}, {AUTO}, or HOST:PORT of a cluster's head")
