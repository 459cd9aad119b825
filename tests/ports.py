"""Ports for servers that tests start."""

import itertools
import os
import socket

_NUMBERS = itertools.count()
_EACH = 500  # for each process that runs tests


def free_port() -> int:
    """A port that nothing listens on, and that no other process is given by chance before a server takes it.

    Below those that systems give to who asks for any, from 32768 on, and above those of Ray's workers, up to 19999.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 20_000 + worker % 20 * _EACH + next(_NUMBERS) % _EACH
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
