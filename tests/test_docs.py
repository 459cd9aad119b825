"""Every `cascade` command in README and docs is run, searches with budgets of seconds."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("chmod", "docker", "export", "kubectl", "ray")  # test_cluster_docs
QUICK = ["num_trials=1", "teacher.epochs=1", "cascade.recipe.epochs=3", "cascade.pruning.num_prunings=3"]
QUICK += ["tracking.models=none"]
QUICK_DIGITS = [*QUICK, "data.image_size=8", "space.num_assistants=[0, 1]"]
QUICK_PHOTOS = [*QUICK, "data.image_size=32", "model.width=0.25"]
QUICK_STUDY = ["sizes=[0.3]", "seeds=[1]", "images={train: 64, val: 32}", "arms={no-assistant: {}}", "budget.amount=5"]


def commands():
    """The commands of all shell blocks, in order, without comments."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield words


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders with generated photographs."""
    generator = np.random.default_rng(0)
    for part, number in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(100 * label, 100 * label + 100, (96, 96, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


@pytest.mark.integration
@pytest.mark.timeout(900)  # a dozen commands, each a process; on a busy machine they took more than five minutes
def test_every_command_of_the_docs_runs(photos, tiny_search, commands_afresh, s3, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(photos / "cache"))
    shutil.copytree(tiny_search / "runs", photos / "runs")
    shutil.move(photos / "runs/tiny", photos / "runs/demo")
    shutil.copytree(ROOT / "studies", photos / "studies")
    to_run = []
    for program, *words in commands():
        if program in ELSEWHERE:
            continue
        if program != "cascade" or words[0] == "ui":
            assert program in ("make", "cascade"), f"{program} is in the docs, and no test runs it"
            continue
        if words[0] == "search":
            quick = QUICK_PHOTOS if "data.path=photos" in words else QUICK_DIGITS
            words += [word for setting in quick for word in ("--set", setting)]
        if words[0] == "study":
            words += [word for setting in [*QUICK_STUDY, "teacher.epochs=1"] for word in ("--set", setting)]
        if words[0] == "export":
            # The short search of this test loses more than the docs' example allows.
            words = ["1" if word == "0.01" else word for word in words] + ["--overwrite"]
            if words[2:4] == ["--pick", "knee"]:  # README's has all formats that are written where none is named
                words += ["--formats", "native", "--latency", "none"]
        to_run.append([s3 if word == "s3://BUCKET/PREFIX" else word for word in words])
    assert {"search", "front", "export", "presets", "study"} <= {words[0] for words in to_run}
    commands_afresh(*to_run, cwd=photos)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_of_the_docs_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= targets


def test_every_key_of_an_experiment_is_in_the_guide():
    from orchestrator.experiment.config import Experiment

    guide = (ROOT / "docs/guide.md").read_text()
    for key in Experiment.model_fields:
        assert f"`{key}`" in guide or f"`{key}." in guide, f"the guide does not say what {key} is"


def test_the_defaults_of_the_guide_are_all_there_and_true():
    import yaml

    from orchestrator.experiment.config import parse_experiment

    guide = (ROOT / "docs/guide.md").read_text()
    block = re.search(r"### All keys and defaults\n\n```yaml\n(.*?)```", guide, re.DOTALL)[1]
    assert yaml.safe_load(block) == parse_experiment({}).model_dump(mode="json")


def test_every_key_of_a_study_is_in_the_guide():
    from orchestrator.evidence.plan import StudyPlan
    from orchestrator.evidence.settings import Arm, Budget, Images, RunResources, Tuning

    guide = (ROOT / "docs/guide.md").read_text()
    guide = guide[guide.index("## Studies") :]
    for settings in (StudyPlan, Arm, Budget, Images, RunResources, Tuning):
        for key in settings.__slots__:
            assert f"`{key}`" in guide or f"`{key}:" in guide, f"the guide does not say what {key} of a study is"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_on_the_pages_are_those_of_an_experiment_or_a_study(page):
    """What begins like a key is one, but for tags in MLflow and names of files.

    A study's `cascade` takes keys that a search has in `space`; pages name the search's.
    """
    from orchestrator.evidence.plan import StudyPlan
    from orchestrator.experiment.config import Experiment
    from orchestrator.experiment.explanation import _places
    from orchestrator.preparation.packing import nothing_chosen

    tracking = "".join(path.read_text() for path in (ROOT / "orchestrator/tracking").glob("*.py"))
    others = {*re.findall(r'"(cascade\.\w+)"', tracking), *nothing_chosen()}
    search_and_study = [_places(model) for model in (Experiment, StudyPlan)]
    sections = {place for places in search_and_study for place in places.kinds if place and "." not in place}
    for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        for key in re.findall(r"(?<![\w./-])[a-z_]+(?:\.\w+)+", code):
            parts = tuple(key.split("."))
            is_file = key.endswith((".journal", ".onnx", ".pt2"))
            if parts[0] in sections and key not in others and not is_file:
                is_key = any(places.found(parts)[1] in places.kinds for places in search_and_study)
                assert is_key, f"{page.name} has `{code}`, but there is no key {key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_experiments_of_the_docs_are_valid(page):
    import yaml

    from orchestrator.experiment.config import parse_experiment
    from orchestrator.policies.probe import SpaceProbe

    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        experiment = parse_experiment(yaml.safe_load(block))
        SpaceProbe(experiment.find_space(), experiment.cascade).check_points(experiment.starting_points)


def test_help_starts_without_heavy_imports():
    import subprocess

    program = (
        "import sys, orchestrator.cli; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'pyarrow', 'plotly', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
