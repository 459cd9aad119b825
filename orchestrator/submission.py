"""What `submit.py` does on the cluster: `cascade search`, mindful of what `ray submit` may do to its arguments."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
import yaml

from orchestrator import cli
from orchestrator.storage.bucket import is_bucket
from trainables.errors import InputError

_ADDRESS = "resources.address"
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # is there within `ray job submit`, which passes arguments whole


def run(arguments: Sequence[str]) -> int:
    """Run a search on the cluster that this machine is part of; its exit code, which is said where it is not 0.

    Ray makes 1 of every other code, so that it has to stand in the output too.

    Args:
        arguments: those of `cascade search`.
    """
    try:
        words = ["search", *words_of(arguments)]
        _check_cluster(Path(_BOOTSTRAP).expanduser())
    except InputError as error:
        sys.stderr.write(f"cascade: {error}\n")
        code = cli.BAD_INPUT
    else:
        code = _search(words)
    if code:
        sys.stderr.write(f"cascade: exit code {code}\n")
    return code


def words_of(arguments: Sequence[str]) -> list[str]:
    """Arguments of `cascade search`, joined to the cluster unless they say otherwise.

    Raises:
        InputError: if they are none, as when a name with a space has come apart, or if a job's search would be kept in
            the copy of its folder that Ray makes and removes.
    """
    words = list(arguments)
    if not any(f"{_ADDRESS}=" in word for word in words):
        words += ["--set", f"{_ADDRESS}=auto"]
    group: Any = typer.main.get_command(cli.app)
    search = group.commands["search"]
    try:
        context = search.make_context("search", list(words))
    except Exception as error:  # of click, or of typer's own copy of it
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        note = ""
        if _JOB not in os.environ:
            note = (
                "; `ray submit` hands arguments on unquoted, so that spaces part them: take names without spaces, and "
                "put settings into the experiment's file"
            )
        raise InputError(f"{' '.join(message().split()).rstrip('.')}{note}") from error
    storage = context.params["storage"]
    if _JOB in os.environ and not is_bucket(storage) and not Path(storage).is_absolute():
        raise InputError(
            f"--storage is {storage!r}, but a job runs in a copy of its folder that Ray removes with all that lies "
            "there; give the whole path of a folder that all machines mount, or a bucket, by --storage or "
            "CASCADE_STORAGE"
        )
    return words


def _search(words: Sequence[str]) -> int:
    sys.argv = ["cascade", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _check_cluster(bootstrap: Path) -> None:
    """See that workers have joined, where this is the head of a cluster that `ray up` made."""
    if not bootstrap.is_file():
        return
    config = yaml.safe_load(bootstrap.read_text(encoding="utf-8"))
    provider = config.get("provider", {}) if isinstance(config, dict) else {}
    if provider.get("type") != "local" or not provider.get("worker_ips"):
        return
    import ray

    from orchestrator.machines.cluster import check_joined, machines_there
    from orchestrator.machines.joining import joining

    with joining("auto", mend="`ray up` with the same file starts it anew"):
        ray.init("auto", log_to_driver=False, logging_level="ERROR")
    try:
        joined = len(machines_there())
    finally:
        ray.shutdown()
    check_joined(config, joined=joined)
