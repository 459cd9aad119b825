"""`cascade` commands as the tests run them: each in a process of its own, or many in one."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Finished:
    """A command that has run to its end."""

    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


def run_alone(*words, cwd, code=0, timeout=240, env=None):
    """Run a command as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | (env or {}),
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return Finished(done.returncode, done.stdout, done.stderr)


class OneProcess:
    """A process that runs commands one after the other, over one Ray; it starts with the first of them.

    Ray's workers have the environment and look for modules in the folder of the first commands.
    """

    def __init__(self, log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Name the file for what the process says beside its answers, and variables of its environment."""
        self._log = log
        self._environment = dict(environment or {})
        self._process = None

    def __call__(
        self,
        *commands: Sequence[object],
        cwd: Path,
        codes: Sequence[int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[Finished]:
        """Run commands in a folder; what each came to."""
        lists = [[str(word) for word in words] for words in commands]
        try:
            line = self._ask({"commands": lists, "cwd": str(cwd), "environment": dict(env or {})})
        except BaseException:  # what it would still say answers nothing that is asked next
            self._kill()
            raise
        assert line, f"the process of the commands {lists} has ended: {self._log.read_text()}"
        found = [Finished(**each) for each in json.loads(line)]
        for words, one, code in zip(lists, found, codes or [0] * len(found), strict=True):
            assert one.code == code, f"{words}: exit code {one.code}\n{one.out}\n{one.err}"
        return found

    def _ask(self, request: Mapping[str, object]) -> str:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, Path(__file__).with_name("one_process.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=os.environ | self._environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the process, and Ray with it."""
        if self._process is not None:
            self._process.stdin.close()
            try:
                self._process.wait(60)
            finally:
                self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None
