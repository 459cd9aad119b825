"""A `.pt2` file comes back as the network it was; one that torch's reader would run code from is refused before it."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import trainables
from trainables.errors import InputError
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec
from trainables.files.program_check import CONSTANTS_CONFIG, MODEL, SAMPLE_INPUTS, WEIGHTS_CONFIG, read_members
from trainables.files.programs import load_program, write_program

SPEC = InputSpec(channels=1, image_size=4, mean=(0.5,), std=(0.25,), class_names=("a", "b"))
Change = Callable[[dict[str, bytes]], object]


def made() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "model.pt2"
    write_program(trace(made(), SPEC, pixels="normalised"), path)
    return path


def test_layers_may_have_names_that_python_would_not_give(tmp_path: Path) -> None:
    network = nn.Sequential()
    for name, layer in zip(("block1-0", "0", "flat", "a-b-c"), (*made()[:2], nn.Flatten(), made()[4]), strict=True):
        network.add_module(name, layer)
    write_program(trace(network.eval(), SPEC, pixels="normalised"), tmp_path / "model.pt2")
    images = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(load_program(tmp_path / "model.pt2")(images), network(images))


class InFullPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = made()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            scores: torch.Tensor = self.layers(images)
        return scores


def test_a_block_under_autocast_is_named_as_what_cannot_be_read(tmp_path: Path) -> None:
    write_program(trace(InFullPrecision().eval(), SPEC, pixels="normalised"), tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"model.pt2 is refused: it holds a graph within .* autocast .*\(as_graph\)"):
        load_program(tmp_path / "model.pt2")


class Files(dict[str, bytes]):
    """Names and contents; Hypothesis prints what a test was given."""

    def __repr__(self) -> str:
        return f"Files({len(self)})"


@pytest.fixture(scope="module")
def members(written: Path) -> Files:
    with zipfile.ZipFile(written) as archive:
        return Files({name.partition("/")[2]: archive.read(name) for name in archive.namelist()})


def pack(path: Path, members: dict[str, bytes], *, root: str = "model", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name if name.startswith("!") else f"{root}/{name}", content)
    return path


def edited(members: dict[str, bytes], name: str, old: str, new: str) -> dict[str, bytes]:
    text = members[name].decode()
    assert old in text
    return members | {name: text.replace(old, new).encode()}


class Trap:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import builtins; builtins.trapped = True",)


CODE = "__import__('builtins').__dict__.__setitem__('trapped', True)"


@pytest.fixture(autouse=True)
def nothing_ran() -> Any:  # noqa: ANN401
    import builtins

    yield
    assert not hasattr(builtins, "trapped")


def test_a_program_comes_back_and_nothing_else_is_needed(written: Path) -> None:
    images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = made()(images)
    for module in (load_program(written), trainables.load(written), torch.export.load(written).module()):
        assert torch.allclose(module(images), expected, atol=1e-6)
        assert torch.allclose(module(images[:1]), expected[:1], atol=1e-6)


def test_the_file_tells_no_paths_of_this_machine(written: Path) -> None:
    content = written.read_bytes()
    for path in (Path(torch.__file__).parent, Path(__file__).parent):
        assert str(path).encode() not in content


def test_sample_inputs_which_are_a_pickle_are_never_read(members: dict[str, bytes], tmp_path: Path) -> None:
    path = pack(tmp_path / "model.pt2", members | {SAMPLE_INPUTS: pickle.dumps(Trap())})
    assert load_program(path)(torch.zeros(1, 1, 4, 4)).shape == (1, 2)
    assert SAMPLE_INPUTS not in read_members(path)


def trapped_weight(members: dict[str, bytes]) -> dict[str, bytes]:
    config = json.loads(members[WEIGHTS_CONFIG])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    file = io.BytesIO()
    torch.save(Trap(), file)
    return members | {
        WEIGHTS_CONFIG: json.dumps(config).encode(),
        f"data/weights/{first['path_name']}": file.getvalue(),
    }


def test_the_trap_is_one(members: dict[str, bytes], tmp_path: Path) -> None:
    """What the tests below guard against happens where nothing is checked."""
    import builtins

    path = pack(tmp_path / "model.pt2", trapped_weight(members))
    with pytest.raises(Exception, match=r".*"):
        torch.export.load(path)
    assert builtins.trapped  # type: ignore[attr-defined]
    del builtins.trapped  # type: ignore[attr-defined]


def sized(size: int) -> Change:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        config = json.loads(members[WEIGHTS_CONFIG])
        next(iter(config["config"].values()))["tensor_meta"]["sizes"][0] = {"as_int": size}
        return members | {WEIGHTS_CONFIG: json.dumps(config).encode()}

    return change


def emptied(members: dict[str, bytes]) -> dict[str, bytes]:
    """A tensor that says it is huge and brings nothing, which torch would fill with zeros."""
    changed = sized(10**12)(members)
    assert isinstance(changed, dict)
    return changed | {"data/weights/weight_0": b""}


HOSTILE: dict[str, tuple[Change, str]] = {
    "a pickled weight": (trapped_weight, "is a pickle, which could run code"),
    "weights in the old form": (lambda m: m | {"data/weights/model.pt": pickle.dumps(Trap())}, "has no member"),
    "an object": (lambda m: m | {"data/constants/custom_obj_0": pickle.dumps(Trap())}, "has no member"),
    "a library": (lambda m: m | {"data/aotinductor/model/model.so": b"\x7fELF"}, "has no member"),
    "a second program": (lambda m: m | {"models/other.json": m[MODEL]}, "has no member"),
    "a way out": (lambda m: m | {"../../outside": b"x"}, "has no member"),
    "an absolute path": (lambda m: m | {"!/etc/passwd": b"x"}, "outside of its folder"),
    "guards": (lambda m: edited(m, MODEL, '"guards_code": []', f'"guards_code": ["{CODE}"]'), "guards_code"),
    "an expression": (lambda m: edited(m, MODEL, "Symbol('", f"({CODE}) or Symbol('"), "expr_str is"),
    "an attribute": (lambda m: edited(m, MODEL, "positive=True", "positive=True).__class__.mro("), "expr_str is"),
    "a power": (lambda m: edited(m, MODEL, "Symbol('", "9**9**9*Symbol('"), "expr_str is"),
    "a name of code": (lambda m: edited(m, MODEL, '"relu"', f'"x={CODE};relu"'), "a text is|name is"),
    "a keyword": (lambda m: edited(m, MODEL, '"relu"', '"import"'), "name is 'import'"),
    "os.system": (lambda m: edited(m, MODEL, "torch.ops.aten.relu.default", "torch.os.system"), "target is"),
    "from_file": (
        lambda m: edited(m, MODEL, "torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"),
        "target is",
    ),
    "a class of tuples": (
        lambda m: edited(m, MODEL, '"treespec_namedtuple_fields": {}', '"treespec_namedtuple_fields": {"os": {}}'),
        "tuples of a class",
    ),
    "a tree": (lambda m: edited(m, MODEL, "builtins.dict", "collections.defaultdict"), "in_spec is"),
    "a huge tensor": (sized(10**12), "bytes, but .* are there"),
    "a huge tensor of nothing": (emptied, "bytes, but 0 are there"),
    "a negative size": (sized(-1), "a size is -1"),
    "a smaller tensor": (sized(1), "takes 36 bytes, but 72 are there"),
    "a missing tensor": (lambda m: {k: v for k, v in m.items() if k != "data/weights/weight_0"}, "is not in it"),
    "no program": (lambda m: {k: v for k, v in m.items() if k != MODEL}, f"lacks {MODEL}"),
    "no constants": (lambda m: {k: v for k, v in m.items() if k != CONSTANTS_CONFIG}, "lacks data/constants"),
    "a program of noise": (lambda m: m | {MODEL: b"\xff\xfe{"}, "is damaged"),
    "a program of nothing": (lambda m: m | {MODEL: b"{}"}, "is damaged"),
    "a deep program": (lambda m: m | {MODEL: b"[" * 10**5}, "is damaged"),
    "an operator that is not there": (
        lambda m: edited(m, MODEL, "torch.ops.aten.relu.default", "torch.ops.aten.reluu.default"),
        "is damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_programs_are_refused(members: dict[str, bytes], tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    changed = change(members)
    assert isinstance(changed, dict)
    with pytest.raises(InputError, match=message) as raised:
        load_program(pack(tmp_path / "model.pt2", changed))
    assert "\n" not in str(raised.value)


def test_archives_that_hide_things_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(InputError, match=r"is compressed|larger than itself"):
        load_program(pack(path, members, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match=r"its folder is called '\.\.'"):
        load_program(pack(path, members, root="../x"))
    pack(path, members)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"model/{MODEL}", b"{}")
    with pytest.raises(InputError, match="is there twice"):
        load_program(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"", "is damaged"), (pickle.dumps(Trap()), "is damaged"), (b"PK\x03\x04", "is damaged")],
)
def test_other_files_under_its_name_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_program(path)


def test_a_folder_and_half_a_file_are_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        load_program(tmp_path)
    half = tmp_path / "half.pt2"
    half.write_bytes(written.read_bytes()[:-3000])
    with pytest.raises(InputError, match="is damaged"):
        load_program(half)


def refusal(path: Path) -> str:
    """Why a file is refused; empty if it is read."""
    try:
        load_program(path)
    except InputError as error:
        return str(error)
    return ""


def texts(value: object) -> list[list[Any]]:
    """Paths to all texts below a value of JSON."""
    if isinstance(value, str):
        return [[]]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[key, *rest] for key, item in items for rest in texts(item)]


_TEXTS = st.sampled_from([CODE, f"x;{CODE}", f"{{{CODE}}}", "os.system", "../../x", "builtins.eval", "\n", "lambda: 0"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([MODEL, WEIGHTS_CONFIG]), place=st.integers(0, 10**6), text=_TEXTS | st.text(max_size=12))
def test_fuzzed_programs_are_refused_or_harmless(
    members: dict[str, bytes], tmp_path: Path, name: str, place: int, text: str
) -> None:
    values = holder = json.loads(members[name])
    all_texts = texts(values)
    *path, last = all_texts[place % len(all_texts)]
    for key in path:
        holder = holder[key]
    holder[last] = text
    file = pack(tmp_path / "fuzzed.pt2", members | {name: json.dumps(values).encode()})
    assert "\n" not in refusal(file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=8), cut=st.booleans())
def test_fuzzed_bytes_are_refused_or_harmless(
    written: Path,
    tmp_path: Path,
    start: int,
    noise: bytes,
    cut: bool,  # noqa: FBT001
) -> None:
    content = bytearray(written.read_bytes())
    start %= len(content)
    content[start : len(content) if cut else start + len(noise)] = noise
    path = tmp_path / "fuzzed.pt2"
    path.write_bytes(content)
    assert "\n" not in refusal(path)
