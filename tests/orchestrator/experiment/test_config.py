from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest
import yaml

from orchestrator.experiment.config import Experiment, load_experiment, parse_experiment
from orchestrator.policies.rungs import EarlyStopping
from search_spaces.cascade import CascadeSpace
from search_spaces.presets import PRESETS, SPACES
from trainables.errors import InputError
from trainables.plain import at_home


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_valid_and_round_trip(name):
    overrides = [] if PRESETS[name]["data"]["name"] == "digits" else ["data.path=/data"]
    experiment = load_experiment(name, overrides)
    assert parse_experiment(yaml.safe_load(experiment.to_yaml())) == experiment


def test_a_file_says_only_what_differs_from_the_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("num_trials: 3\nspace: {num_assistants: [1, 1]}\n")
    experiment = load_experiment(str(path), ["teacher.epochs=2", "space.temperature=[2, 3]"])
    assert experiment.num_trials == 3
    assert experiment.teacher.epochs == 2
    assert experiment.find_space() == CascadeSpace(num_assistants=(1, 1), temperature=(2.0, 3.0))


def test_spaces_are_found_by_name_and_by_import_path():
    assert Experiment(space="wide").find_space() is SPACES["wide"]
    assert Experiment(space="search_spaces.cascade:CascadeSpace").find_space() is CascadeSpace
    with pytest.raises(InputError, match="cannot be imported"):
        Experiment(space="no_such_package:space").find_space()


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("null", None),
        ("off", None),
        ("on", EarlyStopping()),
        ("rungs", EarlyStopping()),
        ("{first_rung: 0.5}", EarlyStopping(first_rung=0.5)),
    ],
)
def test_early_stopping_is_off_a_name_or_settings(word, wanted):
    experiment = load_experiment("demo", [f"early_stopping={word}"])
    assert experiment.early_stopping == wanted
    assert parse_experiment(yaml.safe_load(experiment.to_yaml())) == experiment
    assert load_experiment("demo").early_stopping is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reuse=3", "reuse: 3 is given, but must be true, false, or the address of a bucket"),
        ("reuse=/tmp/x", "reuse: '/tmp/x' is given, but must be true, false, or the address of a bucket"),
        ("reuse=ftp://host/place", "reuse: ftp://… is no storage that is known"),
        ("num_trials=0", "num_trials is 0, .*greater than or equal to 1"),
        ("num_trials=true", "num_trials is true, but must be a number"),
        (
            "resources.gpus_per_trial=1.5",
            "resources.gpus_per_trial is 1.5, but must be a fraction of one GPU or a whole number",
        ),
        ("num_trials=many", "num_trials is 'many', .*integer"),
        ("nums_trials=1", "unknown key 'nums_trials'; did you mean 'num_trials'"),
        ("data.foo=1", "unknown key 'data.foo'; there are name, path"),
        ("teacher.epoch=1", "unknown key 'teacher.epoch'; did you mean 'epochs'"),
        ("teacher.epochs=0", "teacher.epochs is 0, but must be a whole number of at least 1"),
        ("cascade.recipe.batch_size=1", "cascade.recipe.batch_size is 1"),
        ("resources.address=x", "^resources.address: 'x' is given, but must be local, auto, or HOST:PORT"),
        ("resources.teacher.gpus=.inf", "^resources.teacher.gpus is inf, but must be a finite number"),
        ("resources.teacher.cpus=.inf", "^resources.teacher.cpus is inf, but must be a finite number"),
        ("resources.cpus_per_trial=.inf", "^resources.cpus_per_trial is inf, but must be a finite number"),
        ("teacher.epochs=99999999999999", "^teacher.epochs is 99999999999999, but .* at least 1 and at most 1000000"),
        ("cascade.recipe.batch_size=2000000", "^cascade.recipe.batch_size is 2000000, but .* at least 2 and at most"),
        ("teacher.optimizer=adam", "teacher.optimizer is 'adam', but must be 'sgd' or 'adamw'"),
        ("teacher.learning_rate_schedule=linear", "teacher.learning_rate_schedule is 'linear', .*'one-cycle'"),
        ("cascade.recipe={optimizer: adamw}", "cascade.recipe.learning_rate is 0.1, but must be below 0.1 for adamw"),
        (
            "teacher.class_weights=even",
            "^teacher.class_weights is 'even', .*'none' or 'balanced' or a list",
        ),
        ("teacher.class_weights=[1, b]", "^teacher.class_weights.1 is 'b', but must be a valid number"),
        ("cascade.recipe.class_weights=[1, 0]", "^cascade.recipe.class_weights of class 1 is 0.0, but must be"),
        ("cascade.recipe.accumulate=1000", "^cascade.recipe.accumulate is 1000, but each micro-batch must have"),
        ("teacher.ema=1", "^teacher.ema is 1(.0)?, but must be a number above 0 and below 1"),
        ("teacher.mix=cut", "^teacher.mix is 'cut', but must be 'none', 'mixup', 'cutmix' or 'both'"),
        ("cascade.pruning.round_to=0", "cascade.pruning.round_to is 0"),
        ("model.width=0", r"model.width is 0\.?0?, but must be a number above 0"),
        ("data.name=mnist", "data.name is 'mnist', .*'parquet' or 'shards'"),
        ("data.name=cifar10", "data.path is missing"),
        ("data.val_fraction=1.5", "data.val_fraction is 1.5"),
        ("objectives=[val_accuracy, speed]", "objectives: 'speed' is no objective; there are val_accuracy"),
        ("objectives=[macs_kept, params_kept]", "must be val_accuracy and at least one cost"),
        ("objectives=[val_accuracy, val_accuracy]", "each once"),
        ("sampler=bayes", "sampler: 'bayes' is no sampler; there are tpe, tpe-multivariate, gp"),
        ("num_starting_points=5000", "num_starting_points is 5000, .*less than or equal to 1000"),
        ("starting_points=[3]", "starting_points.0 is 3, but must be keys and values$"),
        # What is searched.
        (
            "cascade.distillation_weight=0",
            r"key 'cascade.distillation_weight'; elsewhere there is space.distillation_weight: \[0, 0\] \(a range\)$",
        ),
        ("cascade.temperature=4.0", r"; elsewhere there is space.temperature: \[4.0, 4.0\] \(a range\)$"),
        ("num_assistants=1", r"elsewhere there is space.num_assistants: \[1, 1\] \(a range\)$"),
        ("epochs=3", "unknown key 'epochs'; elsewhere there are teacher.epochs and cascade.recipe.epochs$"),
        ("study.uri=x", r"unknown key 'study.uri'; did you mean 'url'\? elsewhere there is tracking.uri$"),
        ("constraints.parms.at_most=1", "constraints: 'parms' cannot be constrained; did you mean 'params'"),
        ("constraints.params.atmost=1", "unknown key 'constraints.params.atmost'; did you mean 'at_most'"),
        ("constraints.params={}", "constraints.params: neither at_most nor at_least is given"),
        ("constraints.params={at_most: 1, at_least: 2}", "constraints.params: at_least is 2, but must not be above"),
        (
            "constraints.val_accuracy.at_least=90",
            "constraints: val_accuracy.at_least is 90.0, but must be a number at l",
        ),
        ("constraints.latency_ms.at_most=soon", "constraints.latency_ms.at_most is 'soon', .*number"),
        ("space=huge", "space: 'huge' is no space; give one of"),
        ("space.student_macs_kept=[0, 2]", r"space.student_macs_kept is \[0, 2\]"),
        ("space.colour=[1, 2]", "unknown key 'space.colour'"),
        ("early_stopping=asha", "early_stopping: 'asha' compares trials by a single metric, .*; give rungs"),
        ("early_stopping=Async_HyperBand", "early_stopping: 'Async_HyperBand' compares trials by a single metric"),
        ("early_stopping=median", "early_stopping: 'median' is no way of early stopping; give rungs"),
        ("early_stopping=3", "early_stopping is 3"),
        (
            "early_stopping.first_rung=1",
            r"^early_stopping.first_rung is 1(\.0)?, but must be a number above 0 and below 1",
        ),
        (
            "early_stopping.seed=3",
            r"; there are reduction_factor, first_rung; elsewhere there are data.seed, .* and seed$",
        ),
        ("early_stopping.rungs=3", "unknown key 'early_stopping.rungs'; there are reduction_factor, first_rung"),
        ("resources.cpus_per_trial=0", "resources.cpus_per_trial is 0"),
        ("seed=-1", "seed is -1"),
        ("model=vgg16", "^model is 'vgg16', but must be keys and values, such as model: {name: vgg16}$"),
        ("data=3", "^data is 3, but must be keys and values, such as data: {name: …}$"),
        ("teacher=", "^teacher is empty; give keys below it, such as epochs, or leave it out$"),
        ("stop=", "^stop is empty; give keys below it, such as max_minutes, or leave it out$"),
        ("cascade.pruning=x", "^cascade.pruning is 'x', but must be keys and values, such as pruning: {"),
        ("space.num_assistants=2", r"^space.num_assistants is 2, but must be a list of two, \[lowest, highest\]$"),
        ("space.temperature=[1, 2, 3]", r"^space.temperature is \[1, 2, 3\], but must be a list of two"),
        ("space.temperature=[1, hot]", "^space.temperature.1 is 'hot', but must be a valid number"),
        ("space.temperature=[1]", r"^space.temperature is \[1\], but must be a list of two"),
        ("objectives=val_accuracy", r"^objectives is 'val_accuracy', but must be a list, such as \[val_accuracy\]$"),
        ("num_trials", "must be key=value"),
        ("num_trials.x=1", "num_trials is 10 here, which is not a section; .* as in --set 'num_trials={x: 1}'$"),
        ("num_trials=[", "not YAML; put quotes around it within the value"),
        (
            "data.path=a/set #2",
            "^--set 'data.path=a/set #2': YAML takes '#2' for a comment; put quotes around it within",
        ),
        ("data.path=#x", "^--set .*: YAML takes '#x' for a comment; .*, as in --set 'data.path=\"…\"'$"),
        ("space={temperature: [2, 3]} # hot", "^--set .*: YAML takes '# hot' for a comment"),
        (
            "data.path=~",
            "^--set 'data.path=~': ~ alone is nothing in YAML; write ~/ for your home, or null for nothing$",
        ),
        ("data.path=2024", "^data.path is 2024 as YAML reads it, but must be text; .*, as in --set 'data.path=\"…\"'$"),
        ("data.path=2024-05-01", "^data.path is 2024-05-01 as YAML reads it, but must be text; put quotes around it"),
        ("data.path=a: b", "^data.path is {a: b} as YAML reads it, but must be text; put quotes around it"),
        ("study.warm_start=[3]", "^study.warm_start.0 is 3 as YAML reads it, but must be text; put quotes around it$"),
        ("data={seed: 1, seed: 2}", "--set .*: key seed is given twice, in line 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_key(override, message):
    with pytest.raises(InputError, match=message) as error:
        load_experiment("demo", [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        ("", "is empty"),
        ("a: [1\nb", "is not YAML: while parsing a flow sequence, .* in line 2, column 2$"),
        ("- 1\n- 2\n", "holds a list"),
        ("seed:1\nnum_trials:2\n", "holds plain text, but must hold keys and values, as in key: value, a space after"),
        ("3", "holds a single value, but must hold keys and values"),
        (
            "data:\n\tseed: 1\n",
            "has a tab in line 2, but YAML takes tabs within quotes alone; put spaces in its place$",
        ),
        ("seed: 1\n---\nseed: 2\n", "has a second document from line 2 on, but must be one; remove it, or the --- in"),
        ("seed: 1\n1: 2\n", "holds the key 1, but keys must be text"),
        (b"\xff\xfe\x00", "cannot be read: .*; save it as UTF-8"),
        (
            "cascade: {temperature: 2}\nseed: 1\ncascade:\n  feature_weight: 1\n",
            "mine.yaml: key cascade is given twice, in lines 1 and 3, .*; put both into one",
        ),
        (
            "teacher.epochs: 3",
            "unknown key 'teacher.epochs'; in a file this is teacher: {epochs: 3}; dots are for --set",
        ),
        ("recipe.epochs: 3", "unknown key 'recipe.epochs'; there are model, data, teacher"),
        ("cascade: {recipe.epochs: 3}", "unknown key 'cascade.recipe.epochs'; .* recipe: {epochs: 3} below cascade;"),
        ("space.temperature: [2, 3]", r"in a file this is space: {temperature: \[2, 3\]}; dots"),
        ("data:\n  seed: 1\n  'seed': 2\n", "key seed is given twice, in lines 2 and 3"),
    ],
)
def test_bad_files_are_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        load_experiment(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["a#b", "'a #b'", '"a #b"', "a\n", '"2024"', "~/a"])
def test_paths_are_taken_as_yaml_has_them(path):
    experiment = load_experiment(
        "demo", [f"data.path={path}", "space={num_assistants: [1, 1], # one\n schedule: [sequential]}"]
    )
    assert experiment.data.path == at_home(yaml.safe_load(path))


def test_anchors_and_merge_keys_are_no_repetitions(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "teacher: &recipe {epochs: 3, batch_size: 64}\n"
        "cascade:\n  recipe: &own\n    <<: *recipe\n    epochs: 5\n  pruning: {num_prunings: 2}\n"
    )
    experiment = load_experiment(str(path))
    assert (experiment.teacher.epochs, experiment.cascade.recipe.epochs) == (3, 5)
    assert experiment.cascade.recipe.batch_size == 64


def test_an_unknown_preset_names_those_that_are_there():
    with pytest.raises(InputError, match=r"neither a preset .*demo.* nor a file"):
        load_experiment("demoo")


def test_overrides_do_not_change_the_preset():
    load_experiment("demo", ["teacher.epochs=1"])
    assert load_experiment("demo").teacher.epochs == PRESETS["demo"]["teacher"]["epochs"]


def test_an_experiment_is_read_where_its_bucket_cannot_be_asked(monkeypatch):
    asked, understood = [], pafs.FileSystem.from_uri
    monkeypatch.setattr(pafs, "FileSystem", SimpleNamespace(from_uri=lambda uri: asked.append(uri) or understood(uri)))
    assert Experiment(reuse="s3://models/stages").reuse == "s3://models/stages"
    (uri,) = asked
    assert "region=" in uri  # else S3 is asked for it
