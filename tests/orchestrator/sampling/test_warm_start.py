import shutil

import optuna
import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.front.constraints import Bound
from orchestrator.sampling.opening import open_study, starting_points, warm_start
from orchestrator.sampling.storages import open_storage
from orchestrator.sampling.study import Study
from orchestrator.searches.folder import SearchFolder
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.errors import InputError

DEFAULTS = CascadeDefaults()
WIDE = {"student_macs_kept": [0.02, 0.3]}
NARROW = {"student_macs_kept": [0.1, 0.3]}
# Random sizes at first, of which the next sizes know nothing.
NO_POINTS = {"num_starting_points": 0}


def begun(tmp_path, name, **options):
    folder = SearchFolder(storage=tmp_path / "runs", name=name)
    experiment = Experiment(space=WIDE, **NO_POINTS, **options) if "space" not in options else Experiment(**options)
    folder.begin(experiment)
    return folder, experiment


def searched(tmp_path, name, number=12, **options):
    """A search that has told so many trials, of which one failed and one runs."""
    folder, experiment = begun(tmp_path, name, **options)
    study = open_study(experiment, folder)
    space = experiment.find_space()
    for _ in range(number):
        asked = study.ask(space, DEFAULTS)
        size = asked.cascade.macs_kept[-1]
        study.tell(asked.number, told(size, experiment.objectives), measured={"params": 1000 * size})
    study.fail(study.ask(space, DEFAULTS).number, "diverged")
    study.ask(space, DEFAULTS)
    return folder, experiment


def told(size, objectives):
    return [{"val_accuracy": 0.9 + size / 10, "macs_kept": size, "params_kept": size / 2}[name] for name in objectives]


def test_completed_trials_of_earlier_searches_are_known_and_count_for_nothing(tmp_path):
    first, _ = searched(tmp_path, "first", number=3)
    folder, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]})
    study = open_study(experiment, folder)
    (learned,) = warm_start(study, experiment, folder)
    assert str(learned) == "the sampler knows 3 trials of first"
    assert (study.num_started, study.num_ended, study.running(), study.failures()) == (0, 0, (), {})
    known = study._study.trials
    assert [trial.state.name for trial in known] == ["COMPLETE"] * 3
    assert [trial.user_attrs["warm_start"] for trial in known] == [f"{first.search_id}:{n}" for n in range(3)]
    study.enqueue(SPACE.starting_points(1))
    asked = study.ask(SPACE, DEFAULTS)
    assert asked.number == 3
    assert asked.cascade.macs_kept[-1] == 0.02
    assert study.num_started == 1


def test_what_is_learned_is_forced_to_the_disk_once(tmp_path, monkeypatch):
    searched(tmp_path, "first", number=3)
    folder, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]})
    study, forced = open_study(experiment, folder), []
    monkeypatch.setattr("os.fsync", lambda _: forced.append(folder.study_file.read_bytes()))
    warm_start(study, experiment, folder)
    assert forced == [folder.study_file.read_bytes()]  # all of it


def test_one_trial_is_told_as_one(tmp_path):
    searched(tmp_path, "first", number=1)
    folder, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]})
    (learned,) = warm_start(open_study(experiment, folder), experiment, folder)
    assert str(learned) == "the sampler knows 1 trial of first"


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    missing = tmp_path / "studis.db"
    folder, experiment = begun(tmp_path, "second", study={"warm_start": [f"sqlite:///{missing}#mine"]})
    said = rf"^study\.warm_start: 'sqlite:///{missing}#mine' needs {missing}, which is not there; correct it or leave"
    with pytest.raises(InputError, match=said):
        warm_start(open_study(experiment, folder), experiment, folder)
    assert not missing.exists()


SPACE = CascadeSpace(student_macs_kept=(0.02, 0.3))


@pytest.mark.parametrize("sampler", ["tpe", "tpe-multivariate", "gp"])
def test_the_sampler_suggests_from_what_it_knows(tmp_path, sampler):
    searched(tmp_path, "first", number=11)
    sizes = []
    for name, others in (("cold", []), ("warm", ["first"])):
        folder, experiment = begun(tmp_path, name, study={"warm_start": others}, sampler=sampler)
        study = open_study(experiment, folder)
        warm_start(study, experiment, folder)
        # Ten random trials come first where nothing is known.
        sizes.append(study.ask(SPACE, DEFAULTS).cascade.macs_kept[-1])
    assert sizes[0] != sizes[1]


def test_learning_again_adds_only_what_is_new(tmp_path):
    first, experiment = searched(tmp_path, "first", number=2)
    folder, second = begun(tmp_path, "second", study={"warm_start": ["first"]})
    warm_start(open_study(second, folder), second, folder)
    earlier = open_study(experiment, first)
    earlier.tell(earlier.running()[0].number, [0.9, 0.1])
    study = open_study(second, folder)
    (learned,) = warm_start(study, second, folder)
    assert (learned.num_added, len(study._study.trials)) == (3, 3)


def test_what_was_learned_is_not_passed_on(tmp_path):
    searched(tmp_path, "first", number=2)
    second, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]})
    warm_start(open_study(experiment, second), experiment, second)
    third, experiment = begun(tmp_path, "third", study={"warm_start": ["second", "first"]})
    learned = warm_start(open_study(experiment, third), experiment, third)
    assert [one.num_added for one in learned] == [0, 2]


def test_trials_outside_the_space_are_left_out_and_counted(tmp_path):
    first, experiment = searched(tmp_path, "first")
    sizes = [trial.params["student_macs_kept"] for trial in open_study(experiment, first)._study.trials[:12]]
    inside = sum(size >= 0.1 for size in sizes)
    assert 0 < inside < 12
    folder, experiment = begun(tmp_path, "second", space=NARROW, study={"warm_start": ["first"]})
    study = open_study(experiment, folder)
    (learned,) = warm_start(study, experiment, folder)
    assert (learned.num_added, learned.num_left_out) == (inside, 12 - inside)
    assert str(learned).endswith(f"{12 - inside} left out as they do not fit this space")


def test_objectives_are_taken_by_their_names(tmp_path):
    searched(tmp_path, "first", number=2, objectives=("val_accuracy", "params_kept", "macs_kept"))
    folder, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]})
    study = open_study(experiment, folder)
    warm_start(study, experiment, folder)
    for trial in study._study.trials:
        told_now = told(trial.params["student_macs_kept"], ["val_accuracy", "macs_kept"])
        assert trial.values == pytest.approx(told_now, rel=1e-3)  # sizes are rounded
    folder, experiment = begun(
        tmp_path, "third", study={"warm_start": ["second"]}, objectives=("val_accuracy", "latency_ms")
    )
    with pytest.raises(
        InputError, match="objectives of 'second' are val_accuracy, macs_kept, but must hold val_accuracy,"
    ):
        warm_start(open_study(experiment, folder), experiment, folder)


@pytest.mark.parametrize(
    ("constraints", "num_added"),
    [({"params": {"at_most": 100}, "macs_kept": {"at_most": 0.2}}, 12), ({"latency_ms": {"at_most": 1}}, 0)],
)
def test_constraints_are_those_of_the_study_that_learns(tmp_path, constraints, num_added):
    searched(tmp_path, "first")
    folder, experiment = begun(tmp_path, "second", study={"warm_start": ["first"]}, constraints=constraints)
    study = open_study(experiment, folder)
    assert warm_start(study, experiment, folder)[0].num_added == num_added
    for trial in study._study.trials:
        size = round(trial.params["student_macs_kept"], 6)
        assert trial.constraints == {
            "params": pytest.approx(Bound(at_most=100).violation(1000 * size)),
            "macs_kept": pytest.approx(Bound(at_most=0.2).violation(size)),
        }


def test_sources_are_found_by_name_folder_file_and_address(tmp_path):
    database = f"sqlite:///{tmp_path}/studies.db"
    first, _ = searched(tmp_path, "first", number=1)
    searched(tmp_path, "shared", number=2, study={"url": database})
    searched(tmp_path, "other", number=3, study={"url": database})
    storage = open_storage(f"sqlite:///{tmp_path}/foreign.db")
    foreign = optuna.create_study(storage=storage, directions=["maximize", "minimize"])
    foreign.enqueue_trial({"student_macs_kept": 0.1})
    trial = foreign.ask()
    SPACE(trial, DEFAULTS)
    foreign.tell(trial, [0.9, 0.1])
    names = [
        "first",
        str(first.path),
        str(first.study_file),
        "shared",
        f"{database}#other",
        f"sqlite:///{tmp_path}/foreign.db",
    ]
    folder, experiment = begun(tmp_path, "last", study={"warm_start": names})
    learned = warm_start(open_study(experiment, folder), experiment, folder)
    assert [one.num_added for one in learned] == [1, 1, 1, 2, 3, 1]
    assert len(open_study(experiment, folder)._study.trials) == 1 + 2 + 3 + 1


def test_what_cannot_be_learned_from_is_said_in_one_line(tmp_path):
    database = f"sqlite:///{tmp_path}/studies.db"
    searched(tmp_path, "first", number=1, study={"url": database})
    searched(tmp_path, "second", number=1, study={"url": database})
    folder, experiment = begun(tmp_path, "mine")
    shutil.copytree(tmp_path / "runs/first", tmp_path / "runs/first copy")
    open_study(experiment, folder)
    for name, message in {
        "frist": r"'frist' is neither a search in .*runs \(there: first, mine, second\) nor a",
        database: r"names no study; there are first, second; give one as ADDRESS#NAME",
        f"{database}#third": r"studies.db#third' names no study",
        "nosql://me:pw@host/x": r"storage at nosql://host/x cannot be opened",
        "first copy": r"^study.warm_start: 'first copy' is a folder that no search can be called like; rename it",
        "mine": r"'mine' is this search itself",
    }.items():
        changed = Experiment(space=WIDE, **NO_POINTS, study={"warm_start": [name]})
        with pytest.raises(InputError, match=message) as error:
            warm_start(open_study(experiment, folder), changed, folder)
        assert "\n" not in str(error.value)
        assert "pw" not in str(error.value)


def test_a_study_without_sources_learns_nothing(tmp_path):
    folder, experiment = begun(tmp_path, "mine")
    assert warm_start(open_study(experiment, folder), experiment, folder) == ()
    assert starting_points(experiment, SPACE) == ()
    assert isinstance(open_study(experiment, folder), Study)
