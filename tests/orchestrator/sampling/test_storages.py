import os
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from orchestrator.experiment.config import Experiment
from orchestrator.sampling.opening import open_study, starting_points
from orchestrator.sampling.storages import StudyAddress, find_or_make_study, find_study, open_storage, study_address
from orchestrator.sampling.study import Study
from orchestrator.searches.folder import SearchFolder
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.errors import InputError

OBJECTIVES = ("val_accuracy", "macs_kept")
SPACE = CascadeSpace()


@pytest.fixture(params=["journal", "sqlite"])
def place(request, tmp_path):
    return tmp_path / "study.journal" if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


def address(place, objectives=OBJECTIVES, **made_for):
    return StudyAddress(place=place, name="search", objectives=objectives, made_for=made_for)


def test_optunas_own_tools_read_the_study(place):
    study = Study(StudyAddress(place=place, objectives=OBJECTIVES), seed=0)
    asked = study.ask(SPACE, CascadeDefaults())
    study.tell(asked.number, [0.9, 0.1])
    study.ask(SPACE, CascadeDefaults())
    storage = open_storage(place) if isinstance(place, str) else JournalStorage(JournalFileBackend(str(place)))
    read = optuna.load_study(study_name="search", storage=storage)
    assert [trial.state.name for trial in read.trials] == ["COMPLETE", "RUNNING"]
    assert read.best_trials[0].values == [0.9, 0.1]
    assert [direction.name for direction in read.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert read.trials[0].params["student_macs_kept"] == pytest.approx(asked.cascade.macs_kept[-1], rel=1e-3)
    assert read.user_attrs["objectives"] == list(OBJECTIVES)


def test_a_study_is_found_again(place):
    assert find_study(address(place, space="wide")) is None
    find_or_make_study(address(place, space="wide")).set_user_attr("mark", 1)
    assert find_study(address(place, space="wide")).user_attrs["mark"] == 1


@pytest.mark.parametrize(
    ("objectives", "made_for", "message"),
    [
        (
            ("val_accuracy", "params_kept"),
            {},
            "its objectives are val_accuracy, macs_kept, and here val_accuracy, params",
        ),
        (OBJECTIVES, {"space": {"temperature": [1, 4]}}, r"space.temperature is \[1, 8\] there and \[1, 4\] here"),
        (OBJECTIVES, {"search": "b"}, "is of another search: it was made from another folder; give"),
    ],
)
def test_a_study_of_something_else_is_refused_with_what_differs(place, objectives, made_for, message):
    made = {"space": {"temperature": [1, 8]}, "search": "a"}
    find_or_make_study(address(place, **made))
    with pytest.raises(InputError, match=message) as error:
        find_study(address(place, objectives, **made | made_for))
    assert "another --name" in str(error.value)


def test_a_study_that_no_search_made_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    storage = open_storage(url)
    optuna.create_study(study_name="search", storage=storage)
    with pytest.raises(InputError, match="its objectives are to minimize, and here to maximize, minimize"):
        find_study(address(url))
    optuna.delete_study(study_name="search", storage=storage)
    foreign = optuna.create_study(study_name="search", storage=storage, directions=["maximize", "minimize"])
    foreign.tell(foreign.ask(), [1, 2])
    with pytest.raises(InputError, match="it was not made by a search"):
        find_study(address(url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("studies.db", "study.url is 'studies.db', but must be a URL, such as sqlite:///studies.db"),
        ("sqlite:////no/such/folder/studies.db", "unable to open database file"),
        ("nosql://user:secret@host/db", "at nosql://host/db cannot be opened: Can't load plugin"),
        ("postgresql://user:secret@127.0.0.1:9/db?password=hidden", "storage at postgresql://127.0.0.1:9/db cannot be"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_without_its_credentials(url, message):
    with pytest.raises(InputError, match=message) as error:
        find_study(address(url))
    for secret in ("secret", "hidden", "user:"):
        assert secret not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_journal_is_said(tmp_path):
    (tmp_path / "study.journal").write_text("no journal\nat all\n")
    with pytest.raises(InputError, match=r"study.journal is no journal of a study or is damaged"):
        find_study(address(tmp_path / "study.journal"))


@pytest.fixture
def folder(tmp_path):
    return SearchFolder(storage=tmp_path / "runs", name="mine")


def test_a_database_keeps_studies_of_several_searches_apart(folder, tmp_path):
    experiment = Experiment(study={"url": f"sqlite:///{tmp_path}/studies.db"})
    folder.begin(experiment)
    mine = open_study(experiment, folder)
    mine.ask(SPACE, CascadeDefaults())
    assert open_study(experiment, folder).num_started == 1
    other = SearchFolder(storage=tmp_path / "runs", name="other")
    other.begin(experiment)
    assert open_study(experiment, other).num_started == 0
    same_name = SearchFolder(storage=tmp_path / "elsewhere", name="mine")
    with pytest.raises(InputError, match=r"study 'mine' in sqlite:.* is of another search: it was made"):
        find_study(study_address(experiment, same_name))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_a_database_is_open_no_longer_than_a_call(tmp_path):
    study = Study(address(f"sqlite:///{tmp_path}/studies.db"), seed=0)
    study.ask(SPACE, CascadeDefaults())
    assert not any(os.path.realpath(file).startswith(str(tmp_path)) for file in Path("/proc/self/fd").iterdir())


def test_a_study_that_is_gone_is_said(folder, make_candidate):
    experiment = Experiment()
    folder.begin(experiment)
    folder.archive.add([make_candidate()])
    with pytest.raises(InputError, match=r"holds candidates, but its study in .*study.journal has no trials; bring"):
        open_study(experiment, folder)


def test_own_points_come_before_hand_laid_ones():
    experiment = Experiment(starting_points=[{"temperature": 2}], num_starting_points=4, num_trials=3)
    points = starting_points(experiment, SPACE)
    assert points[0] == {"temperature": 2}
    assert points[1:] == SPACE.starting_points(4)
    assert starting_points(experiment, lambda trial, defaults: None) == ({"temperature": 2},)


def test_a_search_that_goes_on_with_more_trials_has_the_starting_points_of_one_that_began_with_them(tmp_path):
    def sizes(name, *starts):
        for num_trials in starts:
            study = Study(StudyAddress(place=tmp_path / name, objectives=OBJECTIVES), seed=0)
            study.enqueue(starting_points(Experiment(num_trials=num_trials), SPACE))
            while study.num_started < num_trials:
                study.ask(SPACE, CascadeDefaults())
        return [study.parameters(number)["student_macs_kept"] for number in range(6)]

    assert sizes("at once", 6) == sizes("in two starts", 2, 6)
