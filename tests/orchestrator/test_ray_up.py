"""The commands of docs/cluster.md on a cluster of one machine, whose SSH server has no port and a home of its own.

`ray up` and `ray down` end every Ray that they see, so that these run by `make test-cluster` alone, which shows them no
other where it can.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster_files import cluster_file

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))

pytestmark = [pytest.mark.integration, pytest.mark.cluster, pytest.mark.timeout(600)]


class Machine:
    """A head that is this very machine, and what `ray` says when it is told to do something with it."""

    def __init__(self, folder, tiny):
        self.folder, self.home, self.storage = folder, folder / "home", folder / "shared/runs"
        self.home.mkdir()
        self.storage.mkdir(parents=True)
        (self.home / "tiny.yaml").write_text(tiny)
        (self.home / ".bashrc").write_text("cd\n")  # SSH goes to the home that the system knows
        (self.home / ".profile").write_text('. "$HOME/.bashrc"\n')
        self._let_in()
        self.file = folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(self._cluster()))
        self.env = os.environ | {"RAY_TMPDIR": str(folder / "r"), "RAY_AUTH_MODE": "token", "NO_COLOR": "1"}
        self.env["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"

    def _let_in(self):
        for key in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        (self.folder / "token").write_text("0123456789abcdef" * 4)
        environment = {"HOME": self.home, "RAY_TMPDIR": self.folder / "r", "PYTHONPATH": ROOT}
        settings = {
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "id.pub",
            "PasswordAuthentication": "no",
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "PidFile": "none",
            "SetEnv": " ".join(f"{name}={value}" for name, value in environment.items()),
        }
        (self.folder / "sshd").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))

    def _cluster(self):
        """The file that comes with the package, filled in; the environment is the one that runs the tests."""
        cluster = yaml.safe_load(cluster_file("local"))
        cluster["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
        cluster["auth"] = {
            "ssh_user": pwd.getpwuid(os.getuid()).pw_name,
            "ssh_private_key": str(self.folder / "id"),
            "ssh_proxy_command": f"{SSHD} -i -f {self.folder / 'sshd'}",
        }
        mounts = cluster["file_mounts"]
        cluster["file_mounts"] = {there: str(ROOT / here) for there, here in mounts.items()}
        cluster["file_mounts"]["~/.ray/auth_token"] = str(self.folder / "token")
        setup = [line for line in cluster["setup_commands"] if "venv" not in line and "pip install" not in line]
        assert len(setup) == len(cluster["setup_commands"]) - 2
        setup = [line.replace("$HOME/cascade-env/bin", str(BIN)) for line in setup]
        cluster["setup_commands"] = [line.replace("/mnt/cascade/runs", str(self.storage)) for line in setup]
        return cluster

    def ray(self, *words, code=0):
        """What a command says, on both channels."""
        done = subprocess.run(
            [BIN / "ray", *words], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"exit code {done.returncode} of ray {' '.join(map(str, words))}\n{said}"
        return said


@pytest.fixture(scope="module")
def machine(tiny_yaml, request):
    if "cluster" not in request.config.option.markexpr:
        pytest.skip("`make test-cluster` runs this, which keeps it apart from other Rays")
    missing = [name for name in ("rsync", "ssh", "ssh-keygen") if shutil.which(name) is None]
    if SSHD is None or missing:
        pytest.skip(f"there is no {', '.join(missing or ['sshd'])}")
    names = {path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}
    assert not names & {"raylet", "gcs_server"}, "Ray runs here, which `ray up` would end; stop it first"
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short, for Ray's sockets
    machine = Machine(folder, tiny_yaml)
    try:
        machine.ray("up", "-y", machine.file)
        yield machine
    finally:
        machine.ray("down", "-y", machine.file)
        shutil.rmtree(folder, ignore_errors=True)


def listening_addresses():
    """IPv4 addresses that somebody listens on, by port."""
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A":
            address, port = local.split(":")
            listening.setdefault(int(port, 16), set()).add(socket.inet_ntoa(bytes.fromhex(address)[::-1]))
    return listening


def submit(machine, *words, code=0):
    return machine.ray("submit", machine.file, "orchestrator/submit.py", "--", *words, code=code)


def test_a_search_is_submitted_followed_and_resumed(machine):
    said = submit(machine, "tiny.yaml", "--name", "one", "--set", "num_trials=1")
    assert "front" in said.lower()
    assert (machine.storage / "one/archive.parquet").exists()
    assert not list(machine.storage.glob(".shared-*"))
    assert '"trial": 0' in machine.ray("exec", machine.file, "cascade front one --format json")
    said = submit(machine, "tiny.yaml", "--name", "one", "--resume")
    assert '"trial": 1' in machine.ray("exec", machine.file, "cascade front one --format json")


def test_words_that_came_apart_are_refused_and_the_exit_code_is_said(machine):
    said = submit(machine, "my tiny.yaml", code=1)
    assert "`ray submit` hands arguments on unquoted" in said
    assert "cascade: exit code 2" in said


def test_a_script_named_like_a_package_is_refused(machine, tmp_path):
    copy = tmp_path / "ray.py"
    shutil.copy(ROOT / "orchestrator/submit.py", copy)
    said = machine.ray("submit", machine.file, copy, "--", "tiny.yaml", code=1)
    (machine.home / "ray.py").unlink()
    assert "hides the package ray" in said


def test_more_gpus_than_there_are_is_refused(machine):
    said = submit(machine, "tiny.yaml", "--name", "cards", "--set", "resources.gpus_per_trial=8", code=1)
    assert "resources.gpus_per_trial is 8, but there are" in said
    assert not (machine.storage / "cards").exists()


def test_nobody_without_the_token_is_let_in(machine):
    env = machine.env | {"RAY_AUTH_TOKEN_PATH": str(machine.folder / "other")}
    (machine.folder / "other").write_text("f" * 64)
    words = [BIN / "ray", "job", "list", "--address", "http://127.0.0.1:8265"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "auth" in (done.stdout + done.stderr).lower()


def test_ports_of_the_dashboard_and_of_jobs_are_on_this_machine_alone(machine):
    listening = listening_addresses()
    assert listening[8265] == {"127.0.0.1"}
    assert 10001 not in listening


def test_a_job_takes_its_folder_along(machine, tmp_path, tiny_yaml):
    (tmp_path / "my study.yaml").write_text(tiny_yaml)
    words = ["job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", tmp_path, "--"]
    search = ["my study.yaml", "--name", "job", "--set", "num_trials=1"]
    said = machine.ray(*words, "python", "-m", "orchestrator.submit", *search)
    assert "succeeded" in said
    assert (machine.storage / "job/archive.parquet").exists()


def test_a_node_that_does_not_see_the_storage_folder_ends_the_search_before_it_starts(machine):
    """A second raylet, before whose eyes another folder lies over the shared one."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"] if os.getuid() else ["unshare", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts of one's own are not allowed here")
    head = (machine.folder / "r/ray/ray_current_cluster").read_text().strip()
    env = machine.env | {"PYTHONPATH": str(ROOT)}

    def join(*before, mounted=""):
        start = f"{mounted} exec {BIN / 'ray'} start --address={head} --num-cpus=1"
        subprocess.run([*before, "sh", "-c", start], env=env, capture_output=True, timeout=120, check=True)

    join()
    submit(machine, "tiny.yaml", "--name", "two", "--set", "num_trials=1")
    join(*alone, mounted=f"mount -t tmpfs none {machine.storage} &&")
    said = submit(machine, "tiny.yaml", "--name", "blind", code=1)
    assert f"--storage is {machine.storage}, which" in said
    assert "does not share with this machine" in said
    assert "cascade: exit code 2" in said
    assert not (machine.storage / "blind").exists()
