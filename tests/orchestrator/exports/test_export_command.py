"""What `cascade export` prints of what it delivered."""

import errno
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.export_command import _print


def delivered(name: str) -> Any:
    return SimpleNamespace(
        card=SimpleNamespace(verification=SimpleNamespace(refused=()), to_dict=lambda: {"name": name})
    )


@pytest.mark.parametrize("names", [["s 0:1"], ["s 0:1", "s 1:1"], []])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_what_was_delivered_before_the_command_ended_is_printed(
    capsys: pytest.CaptureFixture[str], names: list[str], error: BaseException
) -> None:
    def results() -> Iterator[Any]:
        yield from map(delivered, names)
        raise error

    with pytest.raises(type(error)):
        _print(results(), as_list=True, format="json")
    told = capsys.readouterr().out
    assert [card["name"] for card in json.loads(told)] == names if names else told == ""


@pytest.mark.parametrize(("as_list", "told"), [(True, [{"name": "s 0:1"}]), (False, {"name": "s 0:1"})])
def test_a_list_is_printed_where_one_was_asked_for(
    capsys: pytest.CaptureFixture[str], *, as_list: bool, told: Any
) -> None:
    assert _print([delivered("s 0:1")], as_list=as_list, format="json") == 0
    assert json.loads(capsys.readouterr().out) == told
