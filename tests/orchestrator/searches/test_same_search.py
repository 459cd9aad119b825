import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.same_search import require_fresh_or_same, require_same_data
from trainables.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Of a search that has not begun."""
    return SearchFolder(storage=tmp_path / "runs", name="mine")


def test_other_images_are_refused_once_a_search_has_begun(folder):
    require_same_data(folder, "a")
    folder.begin(Experiment(), data="a")
    require_same_data(folder, "a")
    with pytest.raises(InputError, match=r"images under data\.path are no longer those"):
        require_same_data(folder, "b")


def test_only_how_much_and_where_may_differ_on_resume(folder):
    folder.begin(Experiment())
    study = {"url": "sqlite://me:pw@/x.db"}
    with pytest.raises(InputError, match=r"study.url is None there and 'sqlite:///x.db' here"):
        require_fresh_or_same(folder, Experiment(study=study), resume=True)
    require_fresh_or_same(
        folder, Experiment(num_trials=99, study={"warm_start": ["other"]}, resources={"max_concurrent": 1}), resume=True
    )
    require_fresh_or_same(folder, Experiment(data={"path": "moved"}), resume=True)
    with pytest.raises(InputError, match=r"teacher\.epochs is 20 there and 3 here"):
        require_fresh_or_same(folder, Experiment(teacher={"epochs": 3}), resume=True)
    with pytest.raises(InputError, match=r"sampler is 'tpe' there and 'random' here"):
        require_fresh_or_same(folder, Experiment(sampler="random"), resume=True)
    with pytest.raises(InputError, match="--resume"):
        require_fresh_or_same(folder, Experiment(), resume=False)
