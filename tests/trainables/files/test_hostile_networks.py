"""Native files from strangers: whatever they hold, reading them runs nothing, fills no memory and ends in one line."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trainables.errors import InputError
from trainables.files.checkpoint import ARCHITECTURE_FILE, WEIGHTS_FILE, load, save_network
from trainables.files.input_spec import InputSpec
from trainables.model_config import ModelConfig
from trainables.networks.models import build

MODEL = ModelConfig(name="vgg-small", width=0.1)
TAKEN = {"channels": 1, "image_size": 8, "mean": [0.5], "std": [0.25], "class_names": ["a", "b"]}
SPEC = InputSpec(channels=1, image_size=8, mean=(0.5,), std=(0.25,), class_names=("a", "b"))


class Files(dict[str, bytes]):
    """Names and contents; Hypothesis prints what a test was given."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("whole") / "network"
    save_network(folder, build(MODEL, num_classes=2, in_channels=1), model=MODEL, input_spec=SPEC)
    return Files({name: (folder / name).read_bytes() for name in (ARCHITECTURE_FILE, WEIGHTS_FILE)})


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def refusal(folder: Path) -> str:
    try:
        load(folder)
    except InputError as error:
        return str(error)
    return ""


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was read",)


def header(values: object, *, length: int | None = None) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


WEIGHTS: dict[str, bytes] = {
    "a pickle": pickle.dumps(Trap()),
    "a header of exabytes": header({}, length=2**62),
    "a header beyond the file": header({}, length=10**6),
    "a header that is too long": header({"x" * 10**6: {}}, length=101 * 10**6),
    "a header of noise": struct.pack("<Q", 8) + b"\xff" * 8,
    "a huge tensor": header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    "a huge empty tensor": header({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "shapes that overflow": header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
    "negative offsets": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "overlapping tensors": header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("a", "b")})
    + b"\0" * 4,
    "an unknown type": header({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
    "names that lead out": header({"../../etc/passwd": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    + b"\0" * 4,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(whole: dict[str, bytes], tmp_path: Path, name: str) -> None:
    said = refusal(written(tmp_path, whole | {WEIGHTS_FILE: WEIGHTS[name]}))
    assert WEIGHTS_FILE in said
    assert "\n" not in said


ARCHITECTURES: dict[str, dict[str, object]] = {
    "a path as the model": {"model": {"name": "../../evil"}},
    "a function": {"model": {"name": "os:system"}},
    "a width beyond numbers": {"model": {"name": "vgg-small", "width": 1e308}},
    "a width of infinity": {"model": {"name": "vgg-small", "width": float("inf")}},
    "a huge width": {"model": {"name": "vgg-small", "width": 1e9}},
    "huge images": {"input": {**TAKEN, "image_size": 10**9}},
    "many channels": {"input": {**TAKEN, "channels": 10**12}},
    "many classes": {"input": {**TAKEN, "class_names": ["a"] * 10**5}},
    "huge widths": {"widths": {"classifier": [2, 2**63]}},
    "true for a width": {"widths": {"features.0": [True, 1]}},
    "text for widths": {"widths": "features"},
    "widths of another layer": {"widths": {"__class__": [1, 1]}},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hostile_plans_are_refused(whole: dict[str, bytes], tmp_path: Path, name: str) -> None:
    plan = json.loads(whole[ARCHITECTURE_FILE]) | ARCHITECTURES[name]
    said = refusal(written(tmp_path, whole | {ARCHITECTURE_FILE: json.dumps(plan).encode()}))
    assert said
    assert "\n" not in said


def test_tensors_that_nobody_asked_for_are_refused_before_they_are_read(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, whole)
    save_file(load_file(folder / WEIGHTS_FILE) | {"more": torch.zeros(1000)}, folder / WEIGHTS_FILE)
    monkeypatch.setattr("trainables.files.checkpoint.load_file", lambda _path: pytest.fail("tensors were read"))
    assert "has more, which the network does not have" in refusal(folder)


def test_a_plan_that_is_no_plan_is_refused_by_its_length(whole: dict[str, bytes], tmp_path: Path) -> None:
    folder = written(tmp_path, whole)
    with (folder / ARCHITECTURE_FILE).open("r+b") as file:
        file.truncate(65 * 2**20)  # a hole, which takes no room
    assert "bytes, but describes one network" in refusal(folder)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([ARCHITECTURE_FILE, WEIGHTS_FILE]),
    start=st.integers(0, 10**6),
    noise=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_fuzzed_files_are_refused_or_read(
    whole: dict[str, bytes],
    tmp_path: Path,
    name: str,
    start: int,
    noise: bytes,
    cut: bool,  # noqa: FBT001
) -> None:
    content = bytearray(whole[name])
    start %= min(len(content), 3000)  # where what is read decides what is done
    content[start : len(content) if cut else start + len(noise)] = noise
    assert "\n" not in refusal(written(tmp_path, whole | {name: bytes(content)}))


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("os:system")


def places(value: object) -> list[list[Any]]:
    """Paths to all values below a value of JSON, and to itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[], *([key, *rest] for key, item in items for rest in places(item))]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 10**6),
    value=_VALUES | st.lists(_VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), _VALUES, max_size=3),
)
def test_fuzzed_plans_are_refused_or_read(whole: dict[str, bytes], tmp_path: Path, place: int, value: object) -> None:
    plan = holder = json.loads(whole[ARCHITECTURE_FILE])
    all_places = places(plan)[1:]
    *path, last = all_places[place % len(all_places)]
    for key in path:
        holder = holder[key]
    holder[last] = value
    assert "\n" not in refusal(written(tmp_path, whole | {ARCHITECTURE_FILE: json.dumps(plan).encode()}))
