"""How ranks are placed: what each takes, on which machines."""

import pytest

from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.resources import Resources
from orchestrator.machines.rank_actors import RankActors
from trainables.errors import InputError


def test_what_a_trial_takes_is_its_ranks_in_equal_parts():
    resources = Resources(cpus_per_trial=8, gpus_per_trial=4)
    assert RankActors.of_trial(resources) == RankActors(size=4, num_cpus=2, num_gpus=1)
    assert RankActors.of_trial(resources).for_tune().bundles == [{"CPU": 2, "GPU": 1}] * 4
    assert RankActors.of_trial(resources).needs == {"CPU": 8, "GPU": 4}
    assert RankActors.of_trial(Resources(cpus_per_trial=1, ranks_per_trial=3)).needs == {"CPU": 1}
    assert RankActors.of_trial(Resources(gpus_per_trial=0.5)).for_tune() == {"cpu": 1, "gpu": 0.5}
    assert RankActors.of_trial(Resources(cpus_per_trial=3, ranks_per_trial=2)).num_threads == 1


def test_a_kind_of_card_is_asked_for_with_each_rank():
    resources = Resources(gpus_per_trial=2, gpu_kind="H100", teacher={"gpus": 1, "gpu_kind": "L4"})
    trial, teacher = RankActors.of_trial(resources), RankActors.of_teacher(resources)
    assert trial.for_tune().bundles == [{"CPU": 0.5, "GPU": 1, "accelerator_type:H100": 0.001}] * 2
    assert teacher.for_tune() == {"cpu": 1, "gpu": 1, "accelerator_type:L4": 0.001}
    assert teacher.options == {"num_cpus": 1, "num_gpus": 1, "resources": {"accelerator_type:L4": 0.001}}
    assert RankActors.of_teacher(Resources(gpus_per_trial=1, gpu_kind="H100")).gpu_kind == "H100"


def test_the_teacher_has_its_own_resources_or_one_card():
    own = Resources(teacher={"cpus": 6, "gpus": 3})
    assert RankActors.of_teacher(own) == RankActors(size=3, num_cpus=2, num_gpus=1)
    assert RankActors.of_teacher(Resources(gpus_per_trial=2)) == RankActors(size=1, num_cpus=1, num_gpus=1)
    assert RankActors.of_teacher(Resources(ranks_per_trial=2)) == RankActors(size=1, num_cpus=1, num_gpus=0)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            {"gpus_per_trial": 4, "ranks_per_trial": 2},
            r"^resources\.gpus_per_trial is 4, but resources.ranks_per_trial",
        ),
        (
            {"teacher": {"gpus": 2.5}},
            r"^resources\.teacher\.gpus is 2\.5, but must be a fraction of one GPU or a whole",
        ),
        ({"teacher": {"gpu": 2}}, r"^unknown key 'resources\.teacher\.gpu'; did you mean 'gpus'"),
        ({"ranks_per_trial": 0}, r"^resources\.ranks_per_trial is 0"),
        ({"gpu_kind": "H100"}, r"^resources\.gpu_kind is 'H100', but resources\.gpus_per_trial is 0; ask for a GPU"),
        ({"teacher": {"gpu_kind": "L4"}}, r"^resources\.teacher\.gpu_kind is 'L4', but gpus is 0"),
    ],
)
def test_resources_that_make_no_sense_are_refused(resources, message):
    with pytest.raises(InputError, match=message):
        parse_experiment({"resources": resources})
