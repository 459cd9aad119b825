"""`--set key=value` on plain values that were read from YAML."""

from typing import Any

import yaml

from orchestrator.experiment.yaml_text import read_yaml
from trainables.errors import InputError, cut, shown


def set_value(values: dict[str, Any], override: str) -> None:
    """Set a single key, in place.

    Args:
        values: sections and values.
        override: `key=value`, the key dotted where it lies in a section, the value in YAML.

    Raises:
        InputError: if it is nothing of the kind, a section is none, or YAML would read less than was written.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r} must be key=value, such as num_trials=4 or data.path=/data")
    *parents, last = key.split(".")
    section = values
    for depth, parent in enumerate(parents, start=1):
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            is_innermost = depth == len(parents)
            example = f", as in --set '{'.'.join(parents)}={{{last}: {text}}}'" if is_innermost else ""
            raise InputError(
                f"--set {override!r}: {parent} is {shown(section)} here, which is not a section; give the whole of it "
                f"as YAML{example}"
            )
    try:
        _require_all_of_it(text, key)
        section[last] = read_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not YAML; {_in_quotes(key)}") from error
    except InputError as error:
        raise InputError(f"--set {cut(override)!r}: {error}") from error


def _require_all_of_it(text: str, key: str) -> None:
    """Refuse a comment, which nobody writes here, and a home that YAML takes for nothing."""
    if text.strip() == "~":
        raise InputError("~ alone is nothing in YAML; write ~/ for your home, or null for nothing")
    tokens = [token for token in yaml.scan(text) if token.end_mark.index > token.start_mark.index]
    comment = text[tokens[-1].end_mark.index if tokens else 0 :].strip()
    if comment:
        raise InputError(f"YAML takes {cut(comment)!r} for a comment; {_in_quotes(key)}")


def _in_quotes(key: str) -> str:
    return f"put quotes around it within the value, as in --set '{key}=\"…\"'"
