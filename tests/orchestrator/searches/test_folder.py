import errno
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from orchestrator.experiment.config import Experiment
from orchestrator.searches.folder import SearchFolder, folders_with
from orchestrator.searches.layout import CANDIDATES, CONFIRM_NETWORKS, STATES
from orchestrator.searches.reuse import StageFolder
from orchestrator.searches.same_search import require_fresh_or_same
from trainables.errors import InputError
from trainables.files import checkpoint, states
from trainables.files.input_spec import InputSpec
from trainables.model_config import ModelConfig


@pytest.fixture
def folder(tmp_path):
    return SearchFolder(storage=tmp_path / "runs", name="mine")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "ü", "a" * 201])
def test_names_that_could_leave_the_storage_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="must be up to 200 letters a to z, digits"):
        SearchFolder(storage=tmp_path, name=name)


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("runs/frz", r"give the search's name alone \(frz\), and its folder's place by --storage$"),
        ("runs/frz/", r"give the search's name alone \(frz\), and"),
        ("runs/my own", "give the search's name alone, and"),
    ],
)
def test_a_path_in_place_of_a_name_is_told_how_to_be_given(tmp_path, name, mend):
    with pytest.raises(InputError, match=mend):
        SearchFolder(storage=tmp_path, name=name)


def test_a_long_name_is_not_repeated_in_full(tmp_path):
    with pytest.raises(InputError, match=r"^the name is 'a{99}…, but must be up to 200 letters"):
        SearchFolder(storage=tmp_path, name="a" * 300)


def test_a_folder_that_forbids_looking_is_named_itself(folder, monkeypatch):
    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(
        InputError, match=rf"^{folder.path} cannot be looked into \(Permission denied\); change its per"
    ):
        _ = folder.exists


def test_an_experiment_is_read_back_as_it_was(folder):
    experiment = Experiment(num_trials=3, space="wide")
    folder.begin(experiment)
    assert folder.exists
    assert folder.experiment() == experiment


def test_a_search_keeps_its_id(folder, tmp_path):
    folder.begin(Experiment())
    first = folder.search_id
    folder.begin(Experiment(num_trials=5))
    other = SearchFolder(storage=tmp_path / "runs", name="other")
    other.begin(Experiment())
    assert folder.search_id == first
    assert other.search_id != first


def _begin_to_write(folder, begun):
    """Begin all that is written beside its place, and end none of it."""

    def write_a_part(_tensors, path, **_):
        path.write_bytes(b"a part")
        begun.release()
        Event().wait()

    states.save_file = checkpoint.save_file = write_a_part
    identity, tensors, network = {"stage": "level-1"}, {"weight": torch.ones(2)}, torch.nn.Conv2d(1, 1, 1)
    spec = InputSpec(channels=1, image_size=8, mean=(0.5,), std=(0.5,), class_names=("a", "b"))
    save_network = partial(checkpoint.save_network, model=ModelConfig(), input_spec=spec)
    stages = StageFolder(folder.stages)
    stages.find_or_claim(identity)
    for write in (
        partial(states.save_state, folder.teacher / "state.safetensors", tensors, {}),
        partial(states.save_state, folder.path / STATES / "00001-a.safetensors", tensors, {}),
        partial(save_network, folder.path / CANDIDATES / "0-1", network),
        partial(save_network, folder.path / CONFIRM_NETWORKS / "1-1", network),
        partial(stages.keep, identity, tensors, {}),
    ):
        Thread(target=write).start()


@pytest.mark.integration
def test_what_a_killed_process_was_about_to_write_goes_at_the_next_start(folder):
    context = multiprocessing.get_context("spawn")
    begun = context.Semaphore(0)
    process = context.Process(target=_begin_to_write, args=(folder, begun), daemon=True)
    process.start()
    try:
        assert all(begun.acquire(timeout=60) for _ in range(5))
        own = (folder.path / name for name in (STATES, CANDIDATES, CONFIRM_NETWORKS))
        places = [folder.teacher, *own, folder.stages]
        folder.begin(Experiment())
        StageFolder(folder.stages).sweep()
        assert all(any(place.iterdir()) for place in places)  # it writes still
    finally:
        process.kill()
        process.join()
    (stage,) = (place for place in folder.stages.iterdir() if place.is_dir())
    folder.begin(Experiment())
    StageFolder(folder.stages).sweep()
    assert stage.exists()  # another machine's trial could be writing it
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(stage, (two_days_ago, two_days_ago))
    StageFolder(folder.stages).sweep()
    assert not stage.exists()
    assert not any(any(place.iterdir()) for place in places[:-1])


@pytest.mark.parametrize("name", ["stages", "Stages", "mlartifacts", "mlflow.db", "MLflow.db"])
def test_names_of_what_searches_share_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="which all searches share"):
        SearchFolder(storage=tmp_path, name=name)


def test_a_missing_search_names_those_that_are_there(folder, tmp_path):
    SearchFolder(storage=tmp_path / "runs", name="other").begin(Experiment())
    with pytest.raises(InputError, match=r"there is no search 'mine' in .*; there are other"):
        folder.experiment()


def test_what_no_search_can_be_called_is_passed_over(folder, tmp_path):
    SearchFolder(storage=tmp_path / "runs", name="other").begin(Experiment())
    for name in ("other copy", ".other", "stages"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "experiment.yaml").touch()
    assert [found.name for found in folders_with(tmp_path / "runs", "experiment.yaml")] == ["other"]
    assert folder.neighbours() == ["other"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"a: [1",
            r"while parsing .* got '<stream end>' in line 1, column 6\); put a copy back, or mend that",
        ),
        (b"a: 1\n b: 2\n", r"mapping values are not allowed here in line 2, column 3\); put .*, or mend that line"),
        (b"a: \x00", r"unacceptable character #x0000: .* at position 3\); put a copy back, or mend that line"),
        (b"a: \xff", r".*invalid start byte\); put a copy back"),
        (b"", r"it holds no keys\); put a copy back"),
    ],
)
def test_a_damaged_experiment_is_said(folder, content, said):
    folder.begin(Experiment())
    (folder.path / "experiment.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"experiment\.yaml is damaged \({said}") as error:
        folder.experiment()
    assert "unicode string" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"val_accuracy": 0.9', b"[1]", b'{"val_accuracy": 0.9}', b"\xff\xfe"])
def test_a_damaged_result_of_the_teacher_is_said(folder, content):
    folder.teacher.mkdir(parents=True)
    (folder.teacher / "result.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"teacher/result\.json is damaged \(.*\), .*; put it back from a copy"
    ) as error:
        folder.teacher_result()
    assert "\n" not in str(error.value)


def test_a_new_folder_needs_nothing(folder):
    require_fresh_or_same(folder, Experiment(), resume=False)
    require_fresh_or_same(folder, Experiment(), resume=True)
    folder.require_writable()
    assert not folder.path.exists()


def test_a_second_driver_is_kept_out_and_a_dead_one_is_not(folder):
    program = (
        "import sys; from pathlib import Path; from orchestrator.searches.folder import SearchFolder\n"
        "with SearchFolder(storage=Path(sys.argv[1]), name='mine').locked(): print('in', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(folder.storage)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(InputError, match="running in another process"), folder.locked():
        pass
    with pytest.raises(InputError, match="running in another process"):
        folder.require_free()
    other.kill()
    other.communicate()
    folder.require_free()
    with folder.locked():
        pass
