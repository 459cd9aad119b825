import pytest

from orchestrator.policies.samplers import SAMPLERS, make_sampler
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from search_spaces.cascade import CascadeDefaults
from search_spaces.presets import SPACES
from trainables.errors import InputError

OBJECTIVES = ("val_accuracy", "macs_kept")
# Past the first random trials of every sampler but the populations, which take their 20.
NUM_TRIALS = {"gp": 13, "nsga2": 23, "nsga3": 23}


def told(cascade):
    """An accuracy that size and temperature explain."""
    size = cascade.macs_kept[-1]
    return [0.95 - 0.1 * (1 - size) ** 4 - 0.01 * abs(cascade.temperature - 3), size]


def search(folder, name, number, seed=0):
    folder.mkdir(exist_ok=True)
    study = Study(StudyAddress(place=folder / "study.journal", objectives=OBJECTIVES), seed=seed, sampler=name)
    cascades = []
    for _ in range(number):
        asked = study.ask(SPACES["wide"], CascadeDefaults())
        study.tell(asked.number, told(asked.cascade))
        cascades.append(asked.cascade)
    return cascades


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_searches_the_conditional_space_from_its_seed(tmp_path, name):
    number = NUM_TRIALS.get(name, 13)
    first = search(tmp_path / "a", name, number)
    assert len({cascade.num_assistants for cascade in first}) > 1
    assert search(tmp_path / "b", name, number) == first
    assert search(tmp_path / "c", name, 2, seed=1) != first[:2]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_second_start_suggests_something_new(tmp_path, name):
    first = search(tmp_path, name, 3)
    second = search(tmp_path, name, 3)
    sizes = [cascade.macs_kept[-1] for cascade in first + second]
    assert len(set(sizes)) == 6


def test_quasi_random_goes_on_with_its_sequence(tmp_path):
    whole = search(tmp_path / "whole", "quasi-random", 9)
    search(tmp_path / "cut", "quasi-random", 5)
    rest = search(tmp_path / "cut", "quasi-random", 4)
    assert [cascade.macs_kept[-1] for cascade in rest] == [cascade.macs_kept[-1] for cascade in whole[5:]]


def test_an_unknown_sampler_names_those_that_are_there():
    with pytest.raises(InputError, match="'bayes' is no sampler; there are tpe, tpe-multivariate, gp, nsga2"):
        make_sampler("bayes", seed=0, num_started=0)
