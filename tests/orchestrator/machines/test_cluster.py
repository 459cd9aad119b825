import pytest
import ray
from ray.core.generated import autoscaler_pb2

from orchestrator.machines import cluster
from orchestrator.machines.cluster import (
    View,
    check_joined,
    check_kinds,
    check_nodes,
    check_resources,
    check_together,
    look,
)
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError

TOKEN = "a" * 64


def as_node(name, **resources):
    return {"NodeID": str(name), "Alive": True, "Resources": resources}


@pytest.fixture
def nodes(monkeypatch):
    """Machines that Ray tells of, as (CPUs, GPUs); and those that autoscaling may bring."""

    def there(*machines, may_come=()):
        as_ray = [as_node(place, CPU=float(c), GPU=float(g)) for place, (c, g) in enumerate(machines)]
        monkeypatch.setattr(ray, "nodes", lambda: [*as_ray, as_node("gone", CPU=99.0, GPU=99.0) | {"Alive": False}])
        monkeypatch.setattr(cluster, "may_come", lambda: [{"CPU": float(c), "GPU": float(g)} for c, g in may_come])

    return there


def asked(cpus=1, gpus=0):
    return {"resources.cpus_per_trial": ("CPU", cpus), "resources.gpus_per_trial": ("GPU", gpus)}


def test_a_trial_that_fits_on_one_machine_is_let_through(nodes):
    nodes((4, 0), (8, 2))
    assert check_resources(asked(cpus=8, gpus=2), address="auto") == 8


def test_gpus_are_not_added_up_over_machines(nodes):
    nodes((4, 1), (4, 1))
    with pytest.raises(InputError, match=r"resources.gpus_per_trial is 2, but there are 1 GPUs; ask for less, or wait"):
        check_resources(asked(gpus=2), address="auto")


def test_machines_that_autoscaling_may_bring_count(nodes):
    nodes((4, 0), may_come=[(8, 1)])
    check_resources(asked(cpus=8, gpus=1), address="auto")
    with pytest.raises(InputError, match="there are 1 GPUs"):
        check_resources(asked(gpus=2), address="auto")


def test_a_kind_of_card_that_no_machine_has_is_refused_with_those_that_there_are(monkeypatch):
    there = [as_node("a", **{"GPU": 1.0, "accelerator_type:H100": 1.0})]
    come = [{"GPU": 8.0, "accelerator_type:A100": 1.0}]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    monkeypatch.setattr(cluster, "may_come", lambda: come)
    check_kinds({"resources.gpu_kind": "H100", "resources.teacher.gpu_kind": "A100"})
    with pytest.raises(InputError, match=r"^resources\.gpu_kind is 'L4', but the machines have A100, H100; give one"):
        check_kinds({"resources.gpu_kind": "L4"})
    there[0]["Alive"], come[:] = False, []
    with pytest.raises(InputError, match=r"is 'H100', but no machine has cards whose kind Ray knows"):
        check_kinds({"resources.gpu_kind": "H100"})


def test_what_only_several_machines_have_together_is_refused(monkeypatch):
    there = [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 2.0, "accelerator_type:L4": 1.0}]
    monkeypatch.setattr(ray, "nodes", lambda: [as_node(place, **each) for place, each in enumerate(there)])
    monkeypatch.setattr(cluster, "may_come", list)
    fits, kind = {"CPU": 4.0, "GPU": 2.0, "accelerator_type:L4": 0.002}, {"GPU": 1.0, "accelerator_type:H100": 0.001}
    check_together({"a trial": fits, "the teacher": {"CPU": 16.0}})
    with pytest.raises(InputError, match=r"^the teacher takes 8 CPUs, 1 GPUs, but no machine has all of these; ask"):
        check_together({"a trial": fits, "the teacher": {"CPU": 8.0, "GPU": 1.0}})
    with pytest.raises(InputError, match=r"^a trial takes 1 GPUs, cards of kind H100, but no machine"):
        check_together({"a trial": kind})


def test_kinds_of_machines_are_read_from_what_the_autoscaler_says(monkeypatch):
    said = autoscaler_pb2.ClusterConfig()
    for name, most, resources in (("head", 0, {"CPU": 64}), ("gpu", 8, {"CPU": 8, "GPU": 1}), ("any", -1, {"CPU": 2})):
        group = said.node_group_configs.add(name=name, max_count=most)
        group.resources.update(resources)
    monkeypatch.setattr(cluster.state, "get_cluster_config", lambda: said)
    assert cluster.may_come() == [{"CPU": 8, "GPU": 1}] * 8 + [{"CPU": 2}] * 100
    monkeypatch.setattr(cluster.state, "get_cluster_config", lambda: None)
    assert cluster.may_come() == []


def test_a_machine_sees_what_the_driver_wrote(tmp_path):
    marker = tmp_path / "marker"
    assert look(str(marker)).token is None
    marker.write_text(TOKEN)
    assert look(str(marker)) == View(token=TOKEN, writable=True, version=look(str(marker)).version)


@pytest.fixture
def judged(monkeypatch, tmp_path):
    """What is said of machines that see this and that; `None` where nothing is."""

    def judge(silent=None, **changes):
        node = {"Alive": True, "NodeID": "n" * 56, "NodeManagerAddress": "10.0.0.2"}
        monkeypatch.setattr(ray, "nodes", lambda: [node])

        def views(nodes, marker, seconds):
            view = look(marker)
            seen = {name: changes.get(name, getattr(view, name)) for name in View.__slots__}
            return ({}, {"10.0.0.2": silent}) if silent else ({"10.0.0.2": View(**seen)}, {})

        monkeypatch.setattr(cluster, "_views", views)
        try:
            check_nodes(tmp_path / "new" / "runs", address="auto")
        except InputError as error:
            return str(error)
        finally:
            assert list(tmp_path.iterdir()) == []  # as it was found
        return None

    return judge


def test_machines_that_share_the_folder_pass(judged):
    assert judged() is None


@pytest.mark.parametrize("token", [None, "of another folder"])
def test_a_machine_without_the_folder_is_named(judged, token):
    said = judged(token=token)
    assert "which 10.0.0.2 does not share with this machine" in said
    assert "CASCADE_STORAGE" in said


def test_a_folder_that_is_mounted_for_reading_is_refused(judged):
    assert "which 10.0.0.2 may not write to" in judged(writable=False)


def test_another_version_of_the_project_is_refused(judged):
    assert "10.0.0.2 runs cascade-pruning 0.0.1, but this process" in judged(version="0.0.1")


def test_a_machine_that_cannot_run_the_project_is_named(judged):
    assert "10.0.0.2 does not run this project: No module" in judged(silent="No module named 'orchestrator'")


def test_a_machine_alone_is_asked_nothing(tmp_path):
    check_nodes(tmp_path / "runs", address="local")
    assert not (tmp_path / "runs").exists()


BOOTSTRAP = {"provider": {"type": "local", "worker_ips": ["10.0.0.2", "10.0.0.3"]}}


def test_workers_that_never_join_are_told_of():
    with pytest.raises(InputError, match=r"names 2 workers, but none has joined.*RAY_UP_enable_autoscaler_v2=0"):
        check_joined(BOOTSTRAP, joined=1)


@pytest.mark.parametrize(
    ("bootstrap", "joined"),
    [(BOOTSTRAP, 2), ({"provider": {"type": "local", "worker_ips": []}}, 1), ({"provider": {"type": "aws"}}, 1)],
)
def test_clusters_as_they_should_be_pass(bootstrap, joined):
    check_joined(bootstrap, joined=joined)


def test_a_machine_that_cannot_use_the_bucket_is_named_with_the_reason(monkeypatch):
    def barred(self):
        raise InputError("s3://b/p cannot be written to: ACCESS_DENIED; look at the keys in the environment")

    monkeypatch.setattr(Bucket, "require_usable", barred)
    node = {"Alive": True, "NodeID": "n" * 56, "NodeManagerAddress": "10.0.0.2"}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    monkeypatch.setattr(cluster, "_views", lambda nodes, marker, seconds: ({"10.0.0.2": look(marker)}, {}))
    bucket = Bucket("s3://b/p?region=us-east-1")
    with pytest.raises(InputError, match=r"10.0.0.2 cannot use --storage: .*ACCESS_DENIED; .* that Ray was"):
        check_nodes(bucket, address="auto")
    monkeypatch.setattr(Bucket, "require_usable", lambda self: None)
    check_nodes(bucket, address="auto")
