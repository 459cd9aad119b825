"""The two ways in which work ends badly: what the user asked for is wrong, or a stage failed at it."""

import difflib
import os
import reprlib
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong: the message names the thing, the rule, the value and the mend.

    The command line shows it as one line and exits with code 2.
    """


class MachineError(InputError):
    """A machine cannot have what work needs there, such as images that lie in a bucket; the work is not to blame.

    Another machine may have it.
    """


class StageFailure(RuntimeError):  # noqa: N818 - a failure of the work, not of the program
    """A stage ended without a usable network: diverged, lost its saliency, or missed its size.

    Such a trial is marked failed with this message and never reaches the front.
    """

    def __init__(
        self,
        reason: str,
        *,
        stage: str,
        level: int | None = None,
        group: str | None = None,
        step: int | None = None,
    ) -> None:
        """Compose the message from where it happened.

        Args:
            reason: what happened and what may mend it.
            stage: name of the stage, such as `teacher` or `cascade`.
            level: level of the cascade, 1 … L, where one is to blame.
            group: name of the channel group, where one is to blame.
            step: optimiser steps taken when it happened.
        """
        where = [f"stage {stage}"]
        if level is not None:
            where.append(f"level {level}")
        if group is not None:
            where.append(f"group {group}")
        if step is not None:
            where.append(f"step {step}")
        super().__init__(f"{', '.join(where)}: {reason}")
        self._arguments: dict[str, Any] = {"stage": stage, "level": level, "group": group, "step": step}
        self.reason = reason
        self.stage = stage
        self.level = level
        self.group = group
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes, which an exception with keywords does not by itself."""
        return partial(StageFailure, **self._arguments), (self.reason,)


class _AsInYaml(reprlib.Repr):
    """Values as the user wrote them, whose lists we keep as tuples."""

    def repr_tuple(self, values: tuple[Any, ...], level: int) -> str:
        return self.repr_list(list(values), level)


_MOST_SHOWN = 100  # characters of a value
# Of lists within lists, which anchors of YAML make endless, only so much is looked at.
_repr = _AsInYaml()
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxdict = 4, 20, 20, 20
_repr.maxstring = _repr.maxlong = _repr.maxother = 4 * _MOST_SHOWN


def cut(text: str) -> str:
    """Text for a message, without what would make it endless."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def shown(value: object) -> str:
    """A value for a message, lists in brackets, without what would make it endless."""
    return cut(_repr.repr(value))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The mend of a name that is not known: the one that is like it, or else all that there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def forbidden(path: Path) -> InputError:
    """What is said of a file that may not be read, where others would take it for a damaged one."""
    return InputError(f"{path} cannot be read (Permission denied); change its permissions")


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def told(error: BaseException, folder: Path) -> str:
    """What an error says, without the path of a folder that is soon gone."""
    return str(error).replace(f"{folder}{os.sep}", "")
