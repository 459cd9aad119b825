"""`--set key=value` on plain values that were read from YAML."""

from typing import Any

import yaml

from orchestrator.experiment.yaml_text import read_yaml
from trainables.errors import InputError, cut


def set_value(values: dict[str, Any], override: str) -> None:
    """Set a single key, in place.

    Args:
        values: sections and values.
        override: `key=value`, the key dotted where it lies in a section, the value in YAML.

    Raises:
        InputError: if it is nothing of the kind, or a section is none.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r} must be key=value, such as num_trials=4 or data.path=/data")
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {override!r}: {parent} is not a section here; give the whole of it as YAML")
    try:
        section[last] = read_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not YAML") from error
    except InputError as error:
        raise InputError(f"--set {cut(override)!r}: {error}") from error
