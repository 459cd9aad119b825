"""Cluster files against Ray's own schemas, and the promises of docs/cluster.md about them; nothing is started."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cluster_files import CLUSTERS, cluster_file, print_clusters
from trainables.errors import InputError

ROOT = Path(__file__).parents[2]
UNDER_RAY_UP = [name for name in CLUSTERS if name != "kuberay"]


@pytest.fixture(params=UNDER_RAY_UP)
def launched(request):
    """A cluster file as `ray up` understands it."""
    return prepare_config(yaml.safe_load(cluster_file(request.param)))


def test_every_file_of_the_folder_is_offered():
    assert {path.stem for path in (ROOT / "orchestrator/clusters").glob("*.yaml")} == set(CLUSTERS)


def test_ray_takes_the_file(launched):
    validate_config(launched)


def test_a_misspelt_key_would_not_be_taken(launched):
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(launched | {"idle_timeout": 1})


def test_the_head_answers_on_its_own_machine_alone_and_to_those_with_the_token(launched):
    (start,) = [command for command in launched["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "ay.util.client.server" in launched["head_start_ray_commands"][-1]
    settings = [*launched["setup_commands"], *launched["docker"].get("run_options", [])]
    assert any("RAY_AUTH_MODE=token" in setting for setting in settings)
    assert launched["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in launched["setup_commands"])


def test_what_is_mounted_is_what_the_project_is_installed_from(launched):
    mounts = {there: here for there, here in launched["file_mounts"].items() if there.startswith("~/cascade/")}
    for there, here in mounts.items():
        assert (ROOT / here).exists()
        assert there == f"~/cascade/{here}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == {"orchestrator", "search_spaces", "trainables"}
    assert packages <= {*mounts.values()}
    installs = [line for line in launched["setup_commands"] if "pip install" in line and "$HOME/cascade" in line]
    assert len(installs) == 1
    assert "constraints.txt" in installs[0]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_start_gpus_on_spot_as_they_are_needed(name):
    cluster = yaml.safe_load(cluster_file(name))
    head, gpu = (cluster["available_node_types"][kind] for kind in ("head", "gpu"))
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}, "scheduling": {"provisioningModel": "SPOT"}}
    for key, value in spot.items():
        assert key not in head["node_config"]
        if key in gpu["node_config"]:
            assert value.items() <= gpu["node_config"][key].items()
    assert any(key in gpu["node_config"] for key in spot)
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] == cluster["max_workers"]


def test_images_are_of_the_tested_ray_and_python():
    constraints = (ROOT / "constraints.txt").read_text()
    ray = re.search(r"^ray==(\S+)$", constraints, re.MULTILINE).group(1)
    files = (ROOT / "orchestrator/clusters").iterdir()
    images = {image for path in files for image in re.findall(r"rayproject/ray:(\S+)", path.read_text())}
    assert images == {f"{ray}-py311-cpu", f"{ray}-py311-gpu"}
    assert yaml.safe_load(cluster_file("kuberay"))["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert f"/cascade:{version('cascade-pruning')}" in cluster_file("kuberay")


def test_the_job_on_kubernetes_has_what_kuberay_asks_for():
    job = yaml.safe_load(cluster_file("kuberay"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["entrypoint"].startswith("python -m orchestrator.submit ")
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # as the second autoscaler asks
        (container,) = pod["containers"]
        assert {"name", "image", "env", "resources", "volumeMounts"} <= container.keys()
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        storage = {entry["name"]: entry["value"] for entry in container["env"]}["CASCADE_STORAGE"]
        assert storage.startswith(container["volumeMounts"][0]["mountPath"])
    (worker,) = cluster["workerGroupSpecs"]
    assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams"} <= worker.keys()
    assert worker["minReplicas"] == 0
    assert "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_few_fields_are_to_be_filled_in():
    for name in CLUSTERS:
        assert 3 <= cluster_file(name).count("FILL IN") <= 9, name


def test_files_are_listed_and_printed(capsys):
    print_clusters(None, format="text")
    listed = capsys.readouterr().out
    assert all(name in listed for name in CLUSTERS)
    print_clusters("aws", format="text")
    assert capsys.readouterr().out == cluster_file("aws")


def test_no_such_file_is_bad_input():
    with pytest.raises(InputError, match="'azure' is no cluster file; there are local, aws, gcp, kuberay"):
        cluster_file("azure")
