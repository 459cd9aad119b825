"""Run `cascade` commands in one process, over one Ray: imports and Ray's own processes cost once.

Each line of standard input is a request: JSON with the `commands` (lists of words), the folder `cwd` to run them in,
and variables of their `environment`; a line of standard output answers it with exit code and output of each. `>` and a
file behind the words of a command take its output. What Ray is asked to start with is what the first command asks.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def answer(words: Sequence[str]) -> dict[str, Any]:
    """Run one command; its exit code, and what went to both outputs, from below Python too."""
    from orchestrator.cli import main

    if ">" in words:
        *words, _, target = words
        done = answer(words)
        Path(target).write_text(done["out"])
        return done
    sys.argv = ["cascade", *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before = [os.dup(number) for number in (1, 2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            for stream, number, to in zip((sys.stdout, sys.stderr), (1, 2), before, strict=True):
                stream.flush()
                os.dup2(to, number)
                os.close(to)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return {"code": code, "out": said[0], "err": said[1]}


@contextmanager
def one_ray() -> Iterator[None]:
    """Within it the first command starts Ray, and the others find it."""
    import ray

    start, end = ray.init, ray.shutdown

    def start_once(*words: Any, **options: Any) -> None:
        if not ray.is_initialized():
            start(*words, **options)

    ray.init, ray.shutdown = start_once, lambda: None
    try:
        yield
    finally:
        end()


@contextmanager
def in_place(folder: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Be in a folder with these variables; where modules are looked for is afterwards as it was."""
    changed = {name: os.environ.get(name) for name in (*environment, "PYTHONPATH")}
    path = sys.path.copy()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in changed.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def serve() -> None:
    """Answer requests until there are no more; neither they nor the answers are a command's to touch."""
    requests, answers = (os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w")))
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    with one_ray():
        for line in requests:
            request = json.loads(line)
            with in_place(request["cwd"], request["environment"]):
                found = [answer(words) for words in request["commands"]]
            print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve()
