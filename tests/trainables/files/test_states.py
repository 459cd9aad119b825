"""States of stages and trials come back whole, or are refused."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainables.errors import InputError
from trainables.files.states import load_state, save_state


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {"a": shared, "b": shared[2:].view(2, 2).T, "c": torch.tensor(3), "d": torch.tensor([True, False])}
    values = {"epoch": 3, "loss": 0.1, "names": ["é"], "nothing": None}
    path = tmp_path / "new" / "state.safetensors"
    for number in range(2):  # written over whole, too
        save_state(path, tensors, values | {"number": number})
        found, plain = load_state(path)
        assert plain == values | {"number": number}
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert [entry.name for entry in path.parent.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "no values"])
def test_a_damaged_state_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.zeros(100)}, {})
    whole = path.read_bytes()
    path.write_bytes(b"" if damage == "empty" else whole[:200])
    if damage == "missing":
        path.unlink()
    elif damage == "no values":
        save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is missing or damaged"):
        load_state(path)


def test_a_state_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    settled: list[bool] = []
    monkeypatch.setattr("trainables.files.whole.settle", lambda _aside: settled.append(path.exists()))
    save_state(path, {"a": torch.ones(2)}, {})
    assert settled == [False]
    assert path.exists()


def test_a_state_that_cannot_be_written_leaves_the_old_one_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, place: Path, **__: object) -> None:
        place.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "state.safetensors"
    save_state(path, {"a": torch.ones(2)}, {"epoch": 1})
    monkeypatch.setattr("trainables.files.states.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, {"a": torch.ones(2)}, {"epoch": 2})
    assert load_state(path)[1] == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]
