"""Run several `cascade` commands in one process, over one Ray: imports and Ray's own processes cost once.

`python one_process.py ANSWERS COMMANDS`: COMMANDS is a JSON list of lists of words; exit code and output of each come
into the file ANSWERS. `>` and a file behind the words of a command take its output. What is asked of Ray must be the
same in all of them.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """Within it the first search starts Ray, and the others find it."""
    from orchestrator import confirm, search
    from orchestrator.evidence import command as study

    start, found = search.ray_session, []
    with ExitStack() as stack:

        @contextmanager
        def shared(resources: Any) -> Iterator[float]:
            if not found:
                found.append(stack.enter_context(start(resources)))
            yield found[0]

        for module in (search, confirm, study):
            module.ray_session = shared
        yield


if __name__ == "__main__":
    answers, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
    with one_ray():
        answers.write_text(json.dumps([answer(words) for words in commands]))
