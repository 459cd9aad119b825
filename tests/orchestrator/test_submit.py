import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator import submission
from orchestrator.submit import hidden
from trainables.errors import InputError

SCRIPT = Path(__file__).parents[2] / "orchestrator/submit.py"


def test_a_search_joins_the_cluster():
    assert submission.words_of(["a.yaml", "--resume"]) == ["a.yaml", "--resume", "--set", "resources.address=auto"]


def test_an_address_of_the_user_s_own_is_kept():
    words = ["a.yaml", "--set", "resources.address=local"]
    assert submission.words_of(words) == words


@pytest.mark.parametrize(
    "words",
    [
        ["my", "study.yaml"],
        ["a.yaml", "--set", "tracking.experiment=my", "study"],
        ["a.yaml", "--set", "space={num_assistants:", "[0,", "1]}"],
        ["a.yaml", "--nmae", "one"],
    ],
)
def test_words_that_came_apart_are_one_clear_line(words, monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    with pytest.raises(InputError, match="`ray submit` hands arguments on unquoted") as refusal:
        submission.words_of(words)
    assert "\n" not in str(refusal.value)


def test_a_job_is_not_told_of_ray_submit(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError) as refusal:
        submission.words_of(["a.yaml", "b.yaml"])
    assert "ray submit" not in str(refusal.value)


def test_a_job_keeps_nothing_in_its_copy_of_the_folder(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("CASCADE_STORAGE", raising=False)
    for words in ([], ["--storage", "mine/runs"]):
        with pytest.raises(InputError, match=r"^--storage is '(mine/)?runs', but a job runs in a copy .* bucket"):
            submission.words_of(["a.yaml", *words])
    for storage in ("/mnt/runs", "~/runs", "s3://bucket/place"):
        assert submission.words_of(["a.yaml", "--storage", storage])[:3] == ["a.yaml", "--storage", storage]
    monkeypatch.setenv("CASCADE_STORAGE", "/mnt/runs")
    assert submission.words_of(["a.yaml"])[0] == "a.yaml"


def test_a_file_that_hides_a_package_is_named(tmp_path):
    assert hidden(tmp_path) is None
    (tmp_path / "ray.py").touch()
    assert hidden(tmp_path) == f"{tmp_path / 'ray.py'} hides the package ray; rename or remove it"


def copied(folder, *words):
    """What Ray does: the file alone, in a home folder, run from there."""
    script = folder / "submit.py"
    script.write_text(SCRIPT.read_text())
    return subprocess.run(
        [sys.executable, "-S", "-E", script.name, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_copy_without_the_project_says_what_is_missing(tmp_path):
    done = copied(tmp_path, "a.yaml")
    assert done.returncode == 2
    assert "the project is not installed for" in done.stderr


def test_a_copy_beside_a_file_named_like_a_package_is_refused(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('hidden')")
    done = copied(tmp_path, "a.yaml")
    assert done.returncode == 2
    assert "torch.py hides the package torch" in done.stderr


def test_the_exit_code_stands_in_the_output(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(submission, "_BOOTSTRAP", tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["submit.py"])
    assert submission.run(["missing.yaml"]) == 2
    said = capsys.readouterr().err
    assert "missing.yaml is not there" in said
    assert said.endswith("cascade: exit code 2\n")


def test_only_clusters_of_one_s_own_machines_are_asked_for_workers(monkeypatch, tmp_path):
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would fail
    for provider in ({"type": "aws"}, {"type": "local", "worker_ips": []}):
        bootstrap.write_text(yaml.safe_dump({"provider": provider}))
        submission._check_cluster(bootstrap)
    submission._check_cluster(tmp_path / "none")
