#!/bin/sh
# Run a command where it sees no processes and no ports but its own: tests/apart.sh COMMAND …
# `ray up` and `ray down` end every Ray that they see, and use ports that others may have. Linux and root can do that;
# elsewhere the exit code of `tests/apart.sh --possible` is 1, and a command runs as it is.
alone() {
    unshare --pid --fork --kill-child --mount-proc --net sh -c 'ip link set lo up && exec "$@"' sh "$@"
}
if alone true 2>/dev/null; then
    [ "$1" = --possible ] || alone "$@"
elif [ "$1" = --possible ]; then
    exit 1
else
    exec "$@"
fi
