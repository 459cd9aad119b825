"""The command line as a process sees it: words in, exit code and one line out."""

import errno
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from orchestrator.data.datasets import load_test
from orchestrator.experiment.config import Experiment, load_experiment
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.same_search import require_fresh_or_same
from orchestrator.storage.locks import locked
from search_spaces.presets import PRESETS
from trainables.data_config import DataConfig
from trainables.results import TeacherResult


def refused(result, *parts):
    """Exit code 2 and one line that holds all parts."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_presets_are_listed_and_printed_as_yaml(cascade):
    lines = cascade("presets")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert lines[0] == (
        "demo                 a small VGG on handwritten digits that come along; a few minutes on two CPU cores"
    )
    assert json.loads(cascade("presets", "--format", "json")[1]) == list(PRESETS)
    assert yaml.safe_load(cascade("presets", "demo")[1])["num_trials"] == PRESETS["demo"]["num_trials"]
    refused(cascade("presets", "nothing"), "'nothing' is no preset; there are demo")


def test_help_says_what_an_export_does_unasked(cascade):
    said = " ".join(cascade("export", "--help")[1].replace("│", " ").split())
    for default in ("(knee)", "(native,onnx)", "(eager,onnxruntime)"):
        assert f"[default: {default}]" in said


def test_help_names_every_command(cascade):
    code, out, _ = cascade("--help")
    assert code == 0
    for command in ("search", "front", "export", "check", "ui", "presets"):
        assert command in out


def test_a_study_is_offered_no_bucket(cascade):
    assert "bucket" in cascade("search", "--help")[1]
    assert "bucket" not in cascade("study", "--help")[1]


def test_studies_that_are_ready_are_offered_where_they_lie(cascade):
    said = " ".join(cascade("study", "--help")[1].replace("│", " ").split())
    assert "`studies/` in a checkout of the project has some" in said


def test_unknown_words_are_refused(cascade):
    assert cascade("serch")[0] == 2
    assert cascade("front")[0] == 2
    assert cascade("front", "x", "--format", "xml")[0] == 2


def test_a_search_that_is_not_there(cascade, tmp_path):
    refused(cascade("front", "nothing"), "there is no search 'nothing' in runs; there is none")
    refused(cascade("export", "nothing"), "there is no search 'nothing'")
    refused(cascade("front", "../x"), "name is '../x'")
    refused(cascade("ui"), "cascade search")
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_that_no_shell_made_a_home_is_the_users_home_in_every_path(cascade, monkeypatch, tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "empty").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    refused(cascade("front", "x", "--storage=~/rr"), f"no search 'x' in {home}/rr")
    refused(cascade("search", "~/x.yaml"), f"{home}/x.yaml is not there")
    refused(cascade("search", "demo", "--set", "model.weights=~/x"), f"{home}/x")
    refused(cascade("search", "demo", "--set", "data={name: cifar10, path: ~/none}"), f"{home}/none")
    refused(cascade("search", "demo", "--set", "study.warm_start=[~/none]"), "'~/none' is neither a search")
    refused(cascade("study", "~/x.yaml"), f"{home}/x.yaml is not there")
    refused(cascade("check", "~/none"), f"{home}/none")
    refused(cascade("simulate", "~/x.parquet"), f"{home}/x.parquet")
    refused(cascade("data", "~/none", "~/out"), f"{home}/none")
    refused(cascade("data", "~/empty", "~/empty/out"), f"{home}/empty/out lies in {home}/empty")
    monkeypatch.setenv("CASCADE_STORAGE", "~/rr")
    refused(cascade("front", "x"), f"no search 'x' in {home}/rr")
    refused(cascade("front", "x", "--storage=~nobody-of-that-name/rr"), "give the whole path")
    assert list(here.iterdir()) == []


def test_a_tilde_behind_a_dot_and_slash_is_part_of_a_name(cascade, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(
        cascade("search", "~nobody_of_that_name/x.yaml"), "or ./~nobody_of_that_name/x.yaml for a file of that name"
    )
    refused(cascade("search", "./~nobody_of_that_name/x.yaml"), "~nobody_of_that_name/x.yaml is not there")
    refused(cascade("study", "./~nobody_of_that_name.yaml"), "~nobody_of_that_name.yaml is not there")
    refused(cascade("check", "./~nobody_of_that_name"), "~nobody_of_that_name/card.json is missing")
    refused(cascade("simulate", "./~nobody_of_that_name.parquet"), "~nobody_of_that_name.parquet cannot be read")
    refused(cascade("data", "./~nobody_of_that_name", "./~out"), "~nobody_of_that_name")
    refused(cascade("export", "x", "--out", "./~nobody_of_that_name"), "there is no search 'x'")
    refused(cascade("front", "x", "--storage=./~nobody_of_that_name"), "no search 'x' in ~nobody_of_that_name")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--formats", "native,tflite"], ["formats are native, tflite", "native, onnx, pt2, int8"]),
        (["--formats", "none"], ["formats are empty"]),
        (["--opset", "7"], ["opset is 7", "18 … 25"]),
        (["--latency", "tensorrt"], ["latency are tensorrt", "eager, compiled, onnxruntime"]),
        (["--threads", "0"], ["threads is 0", "at least 1"]),
        (["--license", "all rights: mine"], ["license is 'all rights: mine'", "apache-2.0"]),
        ([], ["there is no search 'nothing'"]),
    ],
)
def test_what_an_export_cannot_be_is_said_first(cascade, tmp_path, words, parts):
    refused(cascade("export", "nothing", *words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export_is_refused(cascade, tmp_path):
    refused(cascade("check", tmp_path), "card.json is missing")
    refused(cascade("check", "nowhere"), "card.json is missing")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["demoo"], ["'demoo' is neither a preset"]),
        (["missing.yaml"], ["missing.yaml is not there"]),
        (["demo", "--set", "num_trials=0"], ["num_trials is 0"]),
        (["demo", "--set", "model.name=vgg17"], ["model.name is 'vgg17'", "vgg16"]),
        (["demo", "--set", "model.name=nowhere:net"], ["model.name is 'nowhere:net'", "cannot be imported"]),
        (
            ["demo", "--set", "cascade.pruning.saliency=guess"],
            ["cascade: cascade.pruning.saliency is 'guess'", "gate-gradient"],
        ),
        (["demo", "--set", "model.weights=none.safetensors"], ["none.safetensors", "no such file"]),
        (["demo", "--set", "data={name: cifar10, path: nowhere}"], ["nowhere"]),
        (["demo", "--set", "data={name: imagefolder, path: nowhere, image_size: 32}"], ["nowhere"]),
        (
            ["demo", "--set", "cascade.pruning.min_channels=30"],
            ["starts at 0.005", "of the MACs are left", "or relax cascade.pruning.min_channels (30)"],
        ),
        (
            ["demo", "--set", "cascade.pruning.floors={'*': 30}"],
            ["starts at 0.005", "of the MACs are left", "or relax cascade.pruning.floors\n"],
        ),
        (["demo", "--set", "starting_points=[{temprature: 2}]"], ["starting_points.0", "did you mean 'temperature'"]),
        (
            ["demo", "--set", "constraints.macs_kept.at_most=0.001"],
            ["no valid cascade", "macs_kept must be at most 0.001"],
        ),
        (["demo", "--name", "a/b"], ["name is 'a/b'", "must be up to 200 letters", "give another by --name"]),
        (["demo", "--storage", ""], ["--storage is ''", "a folder or a place in a bucket"]),
        (["demo", "--set", f"data.seed={10**30}"], ["data.seed is 1000", "at most"]),
        (["demo", "--set", f"space.size_grid={10**400}"], ["space.size_grid is 1000", "at most 10000"]),
        (["demo", "--set", f"cascade.recipe.weight_decay={10**400}"], ["weight_decay is 1000", "valid number"]),
        (["demo", "--set", "cascade.recipe.learning_rate=.inf"], ["learning_rate is inf", "must be a finite number"]),
        (["demo", "--set", "cascade.recipe.epochs=1e2"], ["epochs is '1e2'", "an exponent with no point", "write 100"]),
        (["demo", "--set", "num_trials=1e2"], ["num_trials is '1e2'", "an exponent with no point", "write 100"]),
        (["demo", "--set", "stop.max_epochs=yes"], ["stop.max_epochs is true", "must be a number"]),
        (["demo", "--set", "seed=2023-13-45"], ["the value cannot be read: month must be in 1..12"]),
        (["demo", "--set", "data=" + "[" * 3000], ["brackets within brackets"]),
    ],
)
def test_bad_searches_are_refused_before_anything_is_written(cascade, tmp_path, words, parts):
    refused(cascade("search", *words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_does_not_fit_is_named_with_both_shapes(cascade, tmp_path):
    save_file({"features.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "teacher.safetensors")
    words = ["search", "demo", "--set", "model.weights=teacher.safetensors"]
    refused(cascade(*words), "features.0.weight of shape 32x3x3x3, but the network needs 32x1x3x3")
    (tmp_path / "teacher.safetensors").write_bytes(b"no tensors")
    refused(cascade(*words), "teacher.safetensors", "cannot be read")


def parquet(folder, *, side=32, label=3, cut=None):
    """A CIFAR-10 folder in Parquet, of one image with this side and label."""
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(buffer, "PNG")
    table = pa.table({"img": [{"bytes": buffer.getvalue(), "path": "x.png"}] * 20, "label": [0] * 19 + [label]})
    folder.mkdir()
    for part in ("train", "test"):
        path = folder / f"{part}.parquet"
        pq.write_table(table, path)
        if cut:
            path.write_bytes(path.read_bytes()[:cut])
    return ["search", "demo", "--set", f"data={{name: cifar10, path: {folder}}}"]


def test_damaged_data_is_named(cascade, tmp_path):
    refused(cascade(*parquet(tmp_path / "cut", cut=60)), "test.parquet", "cannot be read as Parquet")
    refused(cascade(*parquet(tmp_path / "wide", side=48)), "train.parquet", "48")
    refused(cascade(*parquet(tmp_path / "odd", label=10)), "label", "10")
    assert not (tmp_path / "runs").exists()


def test_a_search_of_folders_says_first_what_it_does_not_read(cascade, tmp_path):
    for name in ("cat/a.png", "cat/b.heic", "dog/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name, "PNG")
    code, out, err = cascade("search", "demo", "--set", "data={name: imagefolder, path: photos, image_size: 8}")
    assert (code, out.count("\n")) == (2, 1)
    assert out.startswith("note: photos holds what is not read: 1 file, such as cat/b.heic; ")
    assert "class cat has 1 image to split" in err


def test_names_of_classes_are_nothing_that_a_terminal_obeys(cascade, tmp_path):
    for name in ("cat\x1b[2K\u202e/a.png", "dog/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    said = cascade("search", "demo", "--set", "data={name: imagefolder, path: photos, image_size: 8}")
    refused(said, r"class cat\x1b[2K\u202e has 1 image to split")


def test_test_images_that_are_drawn_are_seen_to_be_readable_before_a_search(cascade, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    config = DataConfig(name="imagefolder", path=str(tmp_path / "photos"), image_size=8)
    drawn = int(load_test(config).images.images_NCHW[0, 0].unique())
    (tmp_path / f"photos/cat/{drawn}.png").write_bytes(b"")
    data = "data={name: imagefolder, path: photos, image_size: 8}"
    refused(cascade("search", "demo", "--set", data), f"photos/cat/{drawn}.png", "but put another of its class in its")
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_to_is_named(cascade, tmp_path):
    (tmp_path / "runs").write_text("a file")
    refused(cascade("search", "demo"), "is a file, but must be a folder")
    if os.geteuid() == 0:
        return  # nothing is forbidden to root
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(cascade("search", "demo", "--storage", tmp_path / "closed"), "cannot be written to")


def test_an_export_that_reads_training_images_reads_those_of_the_search(cascade, finished):
    words = ["export", "mine", "--pick", "knee", "--formats"]
    refused(cascade(*words, "native,int8"), "no longer those that search 'mine' began with", "put them back")
    assert "no longer those" not in cascade(*words, "native")[2]


@pytest.fixture
def finished(tmp_path, make_candidate):
    """A search of two networks."""
    folder = SearchFolder(storage=tmp_path / "runs", name="mine")
    folder.begin(Experiment())
    folder.teacher.mkdir()
    result = TeacherResult(val_accuracy=0.95, macs=1000, params=100, seconds=1.0)
    (folder.teacher / "result.json").write_text(json.dumps(result.to_dict()))
    folder.archive.add([make_candidate(level=1), make_candidate(level=2, val_accuracy=0.8, macs_kept=0.05)])
    return folder


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_front_whose_plot_cannot_be_written_is_printed(cascade, finished, format):
    (finished.path / "front.html").mkdir()
    code, out, err = cascade("front", "mine", "--format", format)
    assert code == 0
    said = out if format == "text" else err
    assert f"no plot: {finished.path / 'front.html'} cannot be written (Is a directory); work on a copy" in said
    assert "0:2" in out if format == "text" else len(json.loads(out)) == 2


@pytest.mark.parametrize("command", ["report", "confirm", "sync"])
def test_what_writes_into_a_folder_that_forbids_it_says_so(cascade, finished, monkeypatch, command):
    monkeypatch.setattr("orchestrator.searches.folder.os.access", lambda *_: False)
    refused(cascade(command, "mine"), f"{finished.path} cannot be written to", "work on a copy of it", "--storage")


@pytest.mark.parametrize("source", ["gone.yaml", "gone"])
def test_a_search_whose_file_is_gone_goes_on_by_its_own(cascade, finished, source):
    own = finished.path / "experiment.yaml"
    said = cascade("search", source, "--name", "mine", "--resume")
    go_on = f"cascade search {own} --name mine --resume"
    refused(said, f"{source} is not there, but search 'mine' keeps", f"go on by {go_on}\n")
    require_fresh_or_same(finished, load_experiment(str(own)), resume=True)
    refused(cascade("search", "gone.yaml", "--name", "none", "--resume"), "give a preset")


@pytest.mark.parametrize("words", [["confirm"], ["confirm", "--pick", "front"], ["export", "--pick", "front"]])
def test_an_empty_front_is_said_to_be(cascade, finished, words):
    finished.begin(Experiment.model_validate({"constraints": {"macs": {"at_most": 1}}}))
    refused(
        cascade(*words, "mine"),
        "the front is empty, as no candidate meets the constraints; name one as TRIAL:LEVEL",
    )


def test_a_file_that_forbids_reading_is_named(cascade, finished, monkeypatch):
    def forbidden(_):
        raise PermissionError(errno.EACCES, "Permission denied", "archive.parquet")

    monkeypatch.setattr("orchestrator.front.archive.Archive.candidates", forbidden)
    refused(
        cascade("front", "mine"),
        "archive.parquet cannot be read or written (Permission denied); change its permissions, or give another place",
    )


def test_a_name_that_is_too_long_for_a_file_is_refused(cascade):
    refused(cascade("search", "n" * 300), "cannot be read: File name too long")
    refused(cascade("search", f"{'n' * 300}.yaml"), "cannot be read: File name too long")


def test_a_current_folder_that_is_gone_is_said_to_be(cascade, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (("search", "demo"), ("front", "mine", "--storage", tmp_path)):
        refused(cascade(*words), "the current folder is no longer there; change to one that is")


def test_a_second_driver_is_refused_before_images_are_read(cascade, finished, tmp_path):
    missing = {"name": "cifar10", "path": str(tmp_path / "missing")}
    experiment = Experiment.model_validate({"data": missing})
    finished.begin(experiment)
    (tmp_path / "mine.yaml").write_text(experiment.to_yaml())
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"data": missing, "arms": {"one": {"method": "from-scratch"}}, "reference": "one"})
    )
    with finished.locked():
        refused(cascade("search", "mine.yaml", "--resume"), "search 'mine' is running in another process")
        refused(cascade("confirm", "mine"), "search 'mine' is running in another process")
    with locked(tmp_path / "runs/study", "study"):
        refused(cascade("study", "study.yaml"), "study 'study' is running in another process")


@pytest.mark.parametrize("command", ["front", "report", "confirm", "export"])
def test_a_study_is_no_search_and_what_shows_it_is_named(cascade, tmp_path, command):
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/results.jsonl").touch()
    refused(cascade(command, "mine"), f"{tmp_path}/runs/mine holds a study, not a search; `cascade study` with")


def test_a_folder_with_other_files_is_left_alone(cascade, tmp_path):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "thesis.txt").write_text("mine")
    refused(cascade("search", "demo"), "holds other files")
    refused(cascade("search", "demo", "--resume"), "holds other files")


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "asked"), [("cpus_per_trial", "4096"), ("gpus_per_trial", "64")])
def test_more_than_the_machine_has_is_said_at_once(cascade_commands, tmp_path, kind, asked):
    (done,) = cascade_commands(["search", "demo", "--set", f"resources.{kind}={asked}"], cwd=tmp_path, codes=[2])
    assert f"resources.{kind} is {asked}, but there are" in done.err
    assert not (tmp_path / "runs" / "demo").exists()


@pytest.mark.integration
def test_a_dead_tracking_server_is_said_before_anything_runs(cascade_commands, tmp_path):
    address = "http://user:hidden@127.0.0.1:9"
    (done,) = cascade_commands(["search", "demo"], cwd=tmp_path, codes=[2], env={"MLFLOW_TRACKING_URI": address})
    assert "tracking address http://" in done.err
    assert "hidden" not in done.out + done.err
    assert not (tmp_path / "runs" / "demo").exists()


@pytest.mark.integration
def test_front_and_export_of_a_finished_search(tiny_search, cascade_commands, tmp_path):
    out, thesis = tmp_path / "out", tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("mine")
    to_out = ["export", "tiny", "--pick", "most-accurate", "--out", out]
    shown, exported, taken, checked, no_export, unknown, strict = cascade_commands(
        ["front", "tiny"],
        [*to_out, "--format", "json"],
        to_out,
        ["check", out, "--format", "json"],
        ["export", "tiny", "--overwrite", "--out", thesis],
        ["export", "tiny", "--pick", "9:1"],
        ["export", "tiny", "--max-drop", "-1"],
        cwd=tiny_search,
        codes=[0, 0, 2, 0, 2, 2, 2],
    )
    assert "compression" in shown.out
    assert "knee" in shown.out
    assert 0 <= exported.json()["network"]["test_accuracy"] <= 1
    native = {"README.md", "architecture.json", "card.json", "weights.safetensors"}
    assert {path.name for path in out.iterdir()} == native | {"model.onnx"}
    assert "--overwrite" in taken.err
    assert checked.json()["formats"] == ["native", "onnx"]
    assert "is no export" in no_export.err
    assert (thesis / "thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "thesis"}
    assert "trial 9 has no candidate; trials that have some: 0, 1" in unknown.err
    assert len(strict.err.strip().splitlines()) == 1
    words = ["export", "tiny", "--formats", "native", "--latency", "none", "--overwrite", "--out", out]
    cascade_commands([*words, "--pick", "0:1"], cwd=tiny_search)
    assert {path.name for path in out.iterdir()} == native


@pytest.mark.integration
def test_what_is_asked_of_an_export_twice_adds_up(tiny_search, cascade_commands, tmp_path):
    words = ["export", "tiny", "--pick", "1:1", "--pick", "0:1", "--formats", "native", "--formats", "pt2,native"]
    (done,) = cascade_commands(
        [*words, "--latency", "none", "--out", tmp_path / "out", "--format", "json"], cwd=tiny_search
    )
    assert [(card["trial"], card["level"]) for card in done.json()] == [(1, 1), (0, 1)]
    for name in ("1-1", "0-1"):
        written = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert written == {"README.md", "architecture.json", "card.json", "model.pt2", "weights.safetensors"}


def test_a_network_of_the_wrong_number_of_classes_is_refused(cascade, tmp_path):
    (tmp_path / "wrong_outputs.py").write_text(
        "from torch import nn\n"
        "def network(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(4, 7))\n"
    )
    refused(cascade("search", "demo", "--set", "model={name: 'wrong_outputs:network'}"), "7 scores", "10 classes")


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        ("def space(trial, defaults):\n    raise KeyError('size')\n", ["space", "KeyError"]),
        ("def space(trial, defaults):\n    return 3\n", ["space", "CascadeConfig"]),
        ("space = 3\n", ["space", "not a function"]),
        ("def space(:\n", ["space", "cannot be imported"]),
        (
            "from trainables.config import CascadeConfig\n"
            "def space(trial, defaults):\n    return CascadeConfig(macs_kept=(0.1, 0.4))\n",
            ["macs_kept of level 2 is 0.4, but must be below level 1's 0.1"],
        ),
    ],
)
def test_a_space_of_the_users_own_is_tried_before_anything_runs(cascade, tmp_path, module, parts):
    name = f"own_space_{abs(hash(module))}"
    (tmp_path / f"{name}.py").write_text(module)
    refused(cascade("search", "demo", "--set", f"space={name}:space"), *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("torch.ones(1)", ["gave a tensor of shape (1,) for group", "one score a channel, of shape ("]),
        ("[1.0] * layers[0].num_channels", ["gave a list for group", "one score a channel"]),
        ("layers.scores()", [":scores', which failed on a training step: AttributeError"]),
        ("-torch.ones(layers[0].num_channels)", [":scores', which gives no channel of group", "a score above zero"]),
        ("torch.ones(layers[0].num_channels) / 0 * 0", [":scores', which gives scores that are not finite"]),
    ],
)
def test_a_criterion_of_the_users_own_is_tried_before_anything_runs(cascade, tmp_path, body, parts):
    name = f"own_saliency_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"import torch\ndef scores(layers):\n    return {body}\n")
    refused(cascade("search", "demo", "--set", f"cascade.pruning.saliency={name}:scores"), *parts)
    refused(cascade("search", "demo", "--set", f"space.saliency=[random, '{name}:scores']"), *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tracking=http://me:hidden@example.org:5000", "tracking is 'http://example.org:5000', but must be keys and"),
        ("study=postgresql://me:hidden@example.org/db", "study is 'postgresql://example.org/db', but must be keys"),
        ("study.warm_start=mysql://me:hid/den@example.org/db", "such as [mysql://example.org/db]"),
        ("space=postgresql://me:hidden@example.org/db", "'postgresql://example.org/db' is no space"),
    ],
)
def test_passwords_at_a_wrong_place_are_not_shown(cascade, setting, said):
    result = cascade("search", "demo", "--set", setting)
    refused(result, said)
    assert "hid" not in result[2]


def test_passwords_of_a_tracking_address_are_not_written_down(tmp_path):
    from orchestrator.commands import _resume_command
    from orchestrator.experiment.config import load_experiment
    from orchestrator.searches.folder import SearchFolder

    address = "tracking.uri=https://me:hidden@example.org/mlflow"
    experiment = load_experiment("demo", [address])
    folder = SearchFolder(storage=tmp_path, name="x")
    folder.begin(experiment)
    assert "hidden" not in (folder.path / "experiment.yaml").read_text()
    assert experiment.tracking.uri is not None
    assert "hidden" in experiment.tracking.uri
    assert "hidden" not in _resume_command("demo", "x", tmp_path, [address])


@pytest.mark.parametrize("encoding", ["ascii", "latin1"])
def test_output_that_cannot_have_every_letter_has_the_others(cascade_command, tmp_path, encoding):
    done = cascade_command("export", "--help", cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
    assert "version of onnx's operators, 18 ? 25" in " ".join(done.out.replace("|", " ").split()).lower()


def test_files_are_utf_8_whatever_the_terminal_is(cascade_command, tmp_path):
    (tmp_path / "mine.yaml").write_text("nam: Zürich\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cascade_command("search", "mine.yaml", cwd=tmp_path, env=plain, code=2)
    assert "nam" in done.err
    assert "codec" not in done.err
