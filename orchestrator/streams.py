"""Standard output and error, whatever they can show and whoever reads them: no work hangs on either."""

import io
import os
import sys
from typing import IO, Any, TextIO


class _Pipe(io.FileIO):
    """A stream of the process that loses what is written once its reader has gone, as `head` and a `tee` that died."""

    is_gone = False

    def write(self, data: Any, /) -> int:
        """Write, if anybody reads."""
        try:
            return super().write(data)
        except BrokenPipeError:
            self.is_gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what this process starts writes there, too
            os.close(nowhere)
            return memoryview(data).nbytes


def print_what_can_be() -> None:
    """Let output go on where it cannot have a letter, as in ASCII, or its reader has gone.

    No work is to die of a `→`, which is a question mark there, nor of a `| head`.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def is_gone(stream: IO[str]) -> bool:
    """Whether the reader of what `print_what_can_be` made of a stream has gone, as far as writing has shown."""
    raw = _raw(stream)
    return isinstance(raw, _Pipe) and raw.is_gone


def _raw(stream: IO[str]) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _lasting(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = _raw(stream)
    if isinstance(raw, _Pipe) or not isinstance(raw, io.FileIO):  # done before; or a test's
        stream.reconfigure(errors="replace")
        return stream
    stream.flush()
    pipe = _Pipe(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        pipe if stream.write_through else io.BufferedWriter(pipe),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
