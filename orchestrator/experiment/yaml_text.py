"""YAML that people write: read as plain values, and refused where a key is given twice."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any

import yaml

from trainables.errors import InputError, shown

_MERGE = "tag:yaml.org,2002:merge"  # `<<` brings in what an anchor names; a key of one's own beside it is no repetition
_KINDS: Mapping[type, str] = MappingProxyType({list: "a list", str: "plain text", NoneType: "nothing"})


class _Loader(yaml.SafeLoader):
    """PyYAML's own keeps the last of equal keys and drops what stood under the others."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Look at the keys as they stand, before merge keys bring in others."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                where = f"in line {line}" if lines[name] == line else f"in lines {lines[name]} and {line}"
                raise InputError(
                    f"key {key.value} is given twice, {where}, and YAML keeps only the last; put both into one"
                )
            lines[name] = line
        return node


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text; anchors and merge keys are followed.

    Raises:
        yaml.YAMLError: if it is not YAML.
        InputError: if a key is given twice in one mapping, or a value cannot be read.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except InputError:
        raise
    except RecursionError as error:
        raise InputError("brackets within brackets, too deep to be read; give keys and values") from error
    except ValueError as error:  # a date that there is not, or a number of thousands of digits
        raise InputError(f"the value cannot be read: {error}") from error


def read_yaml_file(path: Path, *, missing: str, empty: str | None = None) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Args:
        path: the file.
        missing: the mend where it is not there.
        empty: the mend where nothing is in it.

    Raises:
        InputError: naming the file, if it is missing, cannot be read, is not YAML, gives a key twice, or holds
            something else.
    """
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; {missing}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, but must be a YAML file; give one in it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} {_wrong(error)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if values is None and empty is not None:
        raise InputError(f"{path} is empty; {empty}")
    if not isinstance(values, dict):
        held = _KINDS.get(type(values), "a single value")
        raise InputError(
            f"{path} holds {held}, but must hold keys and values, as in key: value, a space after the colon"
        )
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"{path} holds the key {shown(key)}, but keys must be text; there is none of that name")
    return values


def _wrong(error: yaml.YAMLError) -> str:
    """What is wrong with a file, in PyYAML's words but for what it says in those of its own insides."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        line = error.problem_mark.line + 1
        if r"character '\t'" in error.problem:
            return f"has a tab in line {line}, but YAML takes tabs within quotes alone; put spaces in its place"
        if "another document" in error.problem:
            return f"has a second document from line {line} on, but must be one; remove it, or the --- in this line"
    return f"is not YAML: {what_is_wrong(error)}"


def what_is_wrong(error: yaml.YAMLError) -> str:
    """What PyYAML found, and in which line and column, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        during = f"{error.context}, " if error.context else ""
        mark = error.problem_mark
        return f"{during}{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).replace('in "<unicode string>",', "at").split())
