"""What stands between `cascade ui` and MLflow's server: it ends the server once nobody is left who would.

A program of the standard library alone, given the server's command. It is the leader of a process group of its own, in
which the server and its workers are. Standard input is a pipe of whoever started it, which ends with them even if they
were killed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

_GRACE_SECONDS = 10.0


def main() -> None:
    """Run the server to its end, in an empty folder that is gone afterwards; exit with its code."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # is for the server, whose end is waited for
    threading.Thread(target=_follow, daemon=True).start()
    # It looks for modules where it runs, which is not to be a folder that may have been sent to the user.
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(sys.argv[1:], cwd=empty, stdin=subprocess.DEVNULL, check=False)
    sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)  # as shells say it of a signal


def _follow() -> None:
    """End the group when standard input has ended, by force after a while."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
