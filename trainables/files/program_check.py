"""Check a `.pt2` file before torch reads it, since torch's own reader would run what a hostile file holds.

torch unpickles some members of such an archive, evaluates its expressions of sizes as Python and makes source code of
its names. Here an archive must hold what an export of this project holds and nothing else: plain tensors, a graph of
torch's own operators on them, names that are names, and sizes that are sums and products.
"""

import json
import keyword
import math
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.errors import InputError, first_line

MODEL = "models/model.json"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

_MEMBER = re.compile(
    r"data/weights/weight_\d{1,6}|data/constants/tensor_\d{1,6}|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|" + "|".join(map(re.escape, (MODEL, WEIGHTS_CONFIG, CONSTANTS_CONFIG)))
)
_ROOT = re.compile(r"[\w-][\w.-]{0,99}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"[\w-]+(\.[\w-]+)*")  # of layers, which may be called block1-0
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg)|torch\.sym_\w+")
# Operators that reach beyond the tensors that they are given.
_FORBIDDEN = re.compile(r"torch\.ops\.aten\.(from_file|_?save\w*|_?load\w*|_print|warn\w*)\.")
_SIZE_TOKEN = re.compile(
    r"Symbol\('[su]\d{1,6}'|(?:positive|integer|nonnegative|negative)=(?:True|False)|[su]\d{1,6}|\d{1,12}"
    r"|Add|Mul|Integer|Max|Min|FloorDiv|CleanDiv|CeilDiv|Mod|PythonMod|ModularIndexing|[-+*(),\s]"
)
_KEYS_OF_NAMES = frozenset({"name", "forward_arg_names"})
_CODE = {
    "as_custom_obj": "an object of a class of its own",
    "as_graph": "a graph within its graph, such as a block under autocast becomes",
    "as_operator": "an operator as a value",
    "as_string_to_argument": "a dictionary of values",
    "as_script_object": "an object of a class of its own",
}
_IN_SPEC = (
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}]}, {"type": "builtins.dict", "context": '
    '"[]", "children_spec": []}]}]'
)
_OUT_SPEC = '[1, {"type": null, "context": null, "children_spec": []}]'
_MOST_MEMBERS, _MOST_JSON_BYTES, _MOST_DIMENSIONS = 100_000, 256 * 2**20, 16
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}  # by torch's number of the type


class _Refused(ValueError):
    """Why an archive is not read."""


def read_members(path: Path) -> dict[str, bytes]:
    """The members of a `.pt2` file by name, without their common folder, once all of them were checked.

    Sample inputs are left out: they are a pickle, and nothing needs them.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no file; give a .pt2 file of an export")
        members = _members(path)
        program = _json(members, MODEL)
        _check_weights(members, WEIGHTS_CONFIG)
        _check_weights(members, CONSTANTS_CONFIG)
        _check_program(program)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except _Refused as error:
        raise InputError(f"{path} is refused: {error}") from error
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is damaged or no .pt2 file: {first_line(error)}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error
    return members


def _members(path: Path) -> dict[str, bytes]:
    size, members = path.stat().st_size, {}
    with zipfile.ZipFile(path) as archive:
        listed = archive.infolist()
        _require(0 < len(listed) <= _MOST_MEMBERS, f"it has {len(listed)} members")
        root = listed[0].filename.partition("/")[0]
        _require(_ROOT.fullmatch(root) is not None, f"its folder is called {_shown(root)}")
        _require(sum(item.file_size for item in listed) <= size, "its members are larger than itself")
        for item in listed:
            folder, _, name = item.filename.partition("/")
            _require(folder == root, f"member {_shown(item.filename)} is outside of its folder {_shown(root)}")
            _require(item.compress_type == zipfile.ZIP_STORED, f"member {_shown(name)} is compressed")
            _require(name not in members, f"member {_shown(name)} is there twice")
            if name == SAMPLE_INPUTS:
                continue
            _require(_MEMBER.fullmatch(name) is not None, f"an export has no member {_shown(item.filename)}")
            members[name] = archive.read(item)  # compares the checksum
    for name in (MODEL, WEIGHTS_CONFIG, CONSTANTS_CONFIG, "archive_format", "archive_version"):
        _require(name in members, f"it lacks {name}")
    return members


def _json(members: Mapping[str, bytes], name: str) -> Any:
    _require(len(members[name]) <= _MOST_JSON_BYTES, f"{name} is too long")
    return json.loads(members[name])


def _check_weights(members: Mapping[str, bytes], config: str) -> None:
    """Every tensor is plain, and as long as its shape says."""
    folder = config.rpartition("/")[0]
    for name, payload in _json(members, config)["config"].items():
        _require(_DOTTED.fullmatch(name) is not None, f"a tensor is called {_shown(name)}")
        _require(payload["use_pickle"] is False, f"tensor {name} is a pickle, which could run code")
        member, meta = f"{folder}/{payload['path_name']}", payload["tensor_meta"]
        _require(member in members, f"tensor {name} is not in it ({_shown(member)})")
        _require(meta["device"] == {"type": "cpu", "index": None}, f"tensor {name} is not of the CPU")
        _require(meta["dtype"] in _ITEM_BYTES, f"tensor {name} has an unknown type")
        sizes = [_whole(size["as_int"]) for size in meta["sizes"]]
        _require(len(sizes) <= _MOST_DIMENSIONS, f"tensor {name} has {len(sizes)} dimensions")
        _require(meta["storage_offset"] == {"as_int": 0}, f"tensor {name} is part of another")
        strides = [_whole(stride["as_int"]) for stride in meta["strides"]]
        _require(len(strides) == len(sizes), f"tensor {name} has strides that do not fit its shape")
        # Elements between the first and the last, which all must be there.
        span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if all(sizes) else 0
        wanted, given = math.prod(sizes) * _ITEM_BYTES[meta["dtype"]], len(members[member])
        _require(
            span == math.prod(sizes) and wanted == given,
            f"tensor {name} of shape {sizes} takes {wanted:,} bytes, but {given:,} are there",
        )


def _whole(value: object) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, f"a size is {_shown(value)}")
    assert isinstance(value, int)
    return value


def _check_program(program: Any) -> None:  # noqa: ANN401 - as it comes out of the file
    _require(not program["guards_code"], "it brings code of its own (guards_code)")
    _require(not program["graph_module"]["treespec_namedtuple_fields"], "it takes tuples of a class of its own")
    for key, value in _items(program, ""):
        what = _CODE.get(key)
        _require(what is None or value is None, f"it holds {what} ({key}), which an export has not")
    for key, value in _items(program, ""):
        if isinstance(value, str):
            _check_text(key, value)


def _check_text(key: str, value: str) -> None:
    if key in _KEYS_OF_NAMES:
        # Source code is made of these.
        fits = _NAME.fullmatch(value) is not None and not keyword.iskeyword(value) and not value.startswith("__")
    elif key == "target":
        fits = _OPERATOR.fullmatch(value) is not None and _FORBIDDEN.match(value) is None
    elif key == "expr_str":
        fits = len(value) <= 1000 and "**" not in value and not re.sub(r"'?\)?", "", _SIZE_TOKEN.sub("", value))
    elif key == "as_string":
        fits = re.fullmatch(r"[\w.,> -]{0,200}", value) is not None
    elif key == "in_spec":
        fits = value == _IN_SPEC
    elif key == "out_spec":
        fits = value == _OUT_SPEC
    elif key == "torch_version":
        fits = re.fullmatch(r"[\w.+-]{1,60}", value) is not None
    else:
        fits = value == "" or (len(value) <= 1000 and _DOTTED.fullmatch(value) is not None)
    _require(fits, f"{key or 'a text'} is {_shown(value)}, which no export has")


def _items(value: Any, key: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """All values below one, each with the key that it stands under; keys are texts too."""
    waiting = [(key, value)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            for name, item in value.items():
                yield "", name
                waiting.append((name, item))
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]


def _require(rule_holds: bool, refusal: str) -> None:  # noqa: FBT001 - reads as a sentence where it is called
    if not rule_holds:
        raise _Refused(refusal)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
