#!/bin/sh
# Set up the environment: install.sh PYTHON VENV [ORIGIN]. One clear line for each thing that may be missing.
set -eu
python=$1
venv=$2
asked=${3:-} # "command line" where the user has named the Python

stop() {
    echo "make: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || stop "$python is not there; install Python 3.11 to 3.14, or say make PYTHON=/path/to/python3"
check() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' ||
        stop "$1 is $("$1" --version 2>&1), but must be Python 3.11 to 3.14, for which all packages are built; $2"
}
check "$python" "install one, or say make PYTHON=/path/to/python3"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv)"

if [ ! -L "$venv/bin/python" ] && [ ! -e "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || stop "$venv cannot be made"
fi
"$venv/bin/python" -c '' 2>/dev/null || stop "the Python that $venv was made of is gone; say make clean, then this again"
check "$venv/bin/python" "say make clean, then this again"
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
[ "$asked" != "command line" ] || [ "$(version "$venv/bin/python")" = "$(version "$python")" ] ||
    stop "$venv is of Python $(version "$venv/bin/python"), but $(version "$python") is asked for; say make clean, then this again"
[ -z "$(find pyproject.toml constraints.txt install.sh -newer "$venv/.ready" 2>&1)" ] && exit 0 # nothing has changed since
echo "installing into $venv; the first time this takes some minutes and 7 GB"
# Not compiled: Python compiles what it imports, and keeps it, and of 7 GB that is a small part.
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev,export]' 2>"$venv/install.log" || {
    stop "installing failed; is the package index to be reached? the whole log is in $venv/install.log"
}
# Where it may not keep it, as in many containers, each process would compile torch, Ray and MLflow anew, for seconds.
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] ||
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$venv/install.log" 2>&1 ||
    true # some packages hold templates that are no Python
touch "$venv/.ready"
