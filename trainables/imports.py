"""Functions of the user's own, named as `package.module:function`."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trainables.errors import InputError, first_line

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Tell whether `name` has the form `package.module:function`."""
    return _IMPORT_PATH.fullmatch(name) is not None


def import_module(name: str) -> ModuleType:
    """Import a module of the user's own, which may lie in the current folder.

    That folder comes first from then on, as in processes of Ray's, and not before: who looks at a folder that was sent
    to them, and names no function of it, runs nothing of it.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def import_function(path: str, *, key: str) -> Callable[..., Any]:
    """Import what a user named.

    Args:
        path: `package.module:function`.
        key: the setting that named it, for the message.

    Raises:
        InputError: if it is not there, its module fails, or it is nothing to call.
    """
    module_name, function_name = path.split(":")
    try:
        function = getattr(import_module(module_name), function_name)
    except Exception as error:  # the module is the user's, and may fail at anything
        raise InputError(
            f"{key} is {path!r}, but it cannot be imported: {first_line(error)}{_mend(error, module_name)}"
        ) from error
    if not callable(function):
        raise InputError(f"{key} is {path!r}, but that is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _mend(error: Exception, module_name: str) -> str:
    """What to do about a module that is not there, the user's own or one that it imports."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    package, _, inner = module_name.partition(".")
    if error.name != package:
        return "; install it, or give the command in the folder where it lies"
    where = f"the folder {package} lies" if inner else f"{package}.py lies"
    return f"; give the command in the folder where {where}, or install it"
