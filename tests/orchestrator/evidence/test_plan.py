"""What a study file says, and what is wrong with it in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.evidence.plan import StudyPlan, load_plan
from orchestrator.evidence.settings import Arm
from trainables.errors import InputError

READY = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))


def test_assistants_lie_between_teacher_and_student_in_logarithms() -> None:
    assert Arm().sizes(0.1, (0.1,)) == (0.1,)
    assert Arm(assistants=1).sizes(0.01, (0.01,)) == pytest.approx((0.1, 0.01))
    assert Arm(assistants=2).sizes(0.001, (0.1,)) == pytest.approx((0.1, 0.01, 0.001))
    assert Arm(assistants_at=(0.25, 0.75)).sizes(0.0001, ()) == pytest.approx((0.1, 0.001, 0.0001))
    assert Arm(method="one-cascade").sizes(0.05, (0.05, 0.25, 0.1)) == (0.25, 0.1, 0.05)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_studies_can_be_read(path: Path) -> None:
    plan = load_plan(path, ["data.path=elsewhere"])
    assert plan.reference in plan.arms
    assert StudyPlan.from_dict(plan.to_dict()) == plan


def test_a_key_tells_runs_apart_and_knows_equal_ones(plain) -> None:
    plan = StudyPlan.from_dict(plain)
    run = plan.run("plain", 0.3, 1, 0.05, "measured")
    assert run == plan.run("plain", 0.3, 1, 0.05, "measured")
    others = [
        plan.run("plain", 0.3, 2, 0.05, "measured"),
        plan.run("plain", 0.3, 1, 0.06, "measured"),
        plan.run("scratch", 0.3, 1, 0.05, "measured"),
        StudyPlan.from_dict(plain | {"budget": {"amount": 6}}).run("plain", 0.3, 1, 0.05, "measured"),
        StudyPlan.from_dict(plain | {"teacher_seed": 1}).run("plain", 0.3, 1, 0.05, "measured"),
    ]
    assert len({run.key, *(other.key for other in others)}) == 6
    moved = plain | {"data": plain["data"] | {"path": "elsewhere"}, "seeds": [7], "arms": {"plain": {}, "more": {}}}
    assert StudyPlan.from_dict(moved).run("plain", 0.3, 1, 0.05, "measured").key == run.key


def test_a_default_that_is_spelt_out_is_the_same_run(plain) -> None:
    run = StudyPlan.from_dict(plain).run("plain", 0.3, 1, 0.05, "measured")
    plain["cascade"] = plain["cascade"] | {"temperature": 4.0, "pruning": {"num_prunings": 3, "ramp": "cubic"}}
    plain["arms"] = {"plain": {"method": "cascade", "cascade": {"recovery_epochs": 0}}}
    assert StudyPlan.from_dict(plain).run("plain", 0.3, 1, 0.05, "measured").key == run.key


def test_an_arm_changes_only_what_it_names(plain) -> None:
    plain["arms"] = {"plain": {"cascade": {"pruning": {"cost": "none"}, "temperature": 2}}}
    plan = StudyPlan.from_dict(plain)
    config = plan.cascade_of(plan.arms["plain"], 0.3, seed=4, learning_rate=0.5, epochs=9)
    assert (config.pruning.cost, config.pruning.num_prunings, config.temperature) == ("none", 3, 2)
    assert (config.recipe.epochs, config.recipe.learning_rate, config.recipe.batch_size) == (9, 0.5, 32)
    assert (config.seed, config.macs_kept) == (4, (0.3,))


def test_an_arm_whose_rates_are_tuned_needs_none_of_its_own(plain) -> None:
    adam = {"cascade": {"recipe": {"optimizer": "adamw", "learning_rate": 0.1}}}
    plain |= {"arms": {"plain": {}, "adam": adam}, "tuning": {"learning_rates": [0.001, 0.01]}, "seeds": [1]}
    plan = StudyPlan.from_dict(plain)
    assert plan.learning_rates(plan.arms["adam"]) == (0.001, 0.01)
    assert [run.learning_rate for run in plan.tuning_runs("adam", 0.3)] == [0.001, 0.01]


def test_a_tuned_rate_that_an_arm_cannot_take_is_told_with_its_keys(plain) -> None:
    adam = {"cascade": {"recipe": {"optimizer": "adamw"}}}
    plain |= {"arms": {"plain": {}, "adam": adam}, "tuning": {"learning_rates": [0.01, 0.2]}, "seeds": [1]}
    said = r"^arms.adam, with 0.2 of tuning.learning_rates: learning_rate is 0.2, but must be below 0.1 for adamw"
    with pytest.raises(InputError, match=said):
        StudyPlan.from_dict(plain)
    adam["cascade"]["temprature"] = 2
    with pytest.raises(InputError, match=r"^arms.adam: unknown key 'temprature'"):  # whatever the rate
        StudyPlan.from_dict(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [1.5]}, "a size in sizes is 1.5, but must be a number above 0 and below 1"),
        ({"sizes": [0.3, 0.3]}, r"sizes is \[0.3, 0.3\], but must be a list of different fractions"),
        ({"seeds": []}, "seeds is .*, but must be a list of different whole numbers"),
        ({"reference": "other"}, "reference is 'other', but must be one of the arms: plain, scratch"),
        ({"arms": {}}, "arms is empty"),
        ({"arms": {"plain": {"method": "magic"}}}, "arms.plain: method is 'magic', but must be one of cascade"),
        ({"arms": {"plain": {"assistant": 1}}}, "arms.plain: unknown key 'assistant' of an arm"),
        ({"arms": {"plain": 3}}, "arms.plain: an arm is 3, but must be a mapping of its keys to values"),
        ({"budget": 3}, "budget is 3, but must be a mapping"),
        ({"data": 3}, "data is 3, but must be a mapping"),
        ({"teacher": 3}, "teacher is 3, but must be a mapping"),
        ({"arms": {"plain": {"cascade": {"temprature": 1}}}}, "arms.plain: unknown key 'temprature'"),
        ({"arms": {"plain": {"method": "from-scratch", "assistants": 1}}}, "arms.plain: assistants are given"),
        ({"arms": {"plain": {"assistants": 2, "assistants_at": [0.5]}}}, "arms.plain: assistants is 2, but"),
        ({"arms": {"plain": {"assistants_at": [0.5, 0.2]}}}, "arms.plain: assistants_at is .* rising numbers"),
        ({"arms": {"plain": {"cascade": {"seed": 1}}}}, "arms.plain: cascade.seed is given"),
        ({"arms": {"plain": {"cascade": {"recipe": {"epochs": 1}}}}}, "cascade.recipe.epochs is given, but follows"),
        ({"arms": {"plain": {"cascade": {"pruning": {"size_in": "params"}}}}}, "a study's sizes are in MACs"),
        ({"arms": {"plain": {"cascade": {"pruning": {"size_in": "latency"}}}}}, "size_in is latency, but a study's"),
        ({"tuning": {"learning_rates": [0.1, 0.2], "seed": 2}}, "tuning.seed is 2, but must not be one of seeds"),
        ({"budget": {"amount": 0}}, "budget.amount is 0, but must be a number above 0"),
        ({"budget": {"unit": "hours"}}, "budget.unit is 'hours', but must be one of teacher-passes, epochs"),
        ({"images": {"train": 1}}, "images.train is 1, but must be a whole number of at least 2"),
        (
            {"resources": {"gpus": 1.5}},
            "^resources.gpus is 1.5, but must be a fraction of one GPU or a whole number of",
        ),
        (
            {"resources": {"address": "head"}},
            "^resources.address: 'head' is given, but must be local, auto, or HOST:PORT",
        ),
        ({"nodes": 3}, "unknown key 'nodes' of a study; did you mean 'model'"),
        ({"seed": [3]}, "unknown key 'seed' of a study; did you mean 'seeds'"),
        ({"sizes": ["x" * 1000]}, r"sizes is 'x{99}…, but"),
        ({"reference": "x" * 1000}, r"reference is 'x{99}…, but must be one of"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(plain, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        StudyPlan.from_dict(plain | change)
    assert "\n" not in str(error.value)


def test_files_that_are_no_studies_are_refused(plain, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    with pytest.raises(InputError, match=r"is not there; give the YAML file of a study, .* checkout of the project$"):
        load_plan(path)
    with pytest.raises(InputError, match=rf"{tmp_path} is a folder, but must be a YAML file; give one in it"):
        load_plan(tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="holds a list, but must hold keys and values"):
        load_plan(path)
    path.write_text("# later")
    with pytest.raises(InputError, match="holds nothing, but must hold keys and values"):
        load_plan(path)
    path.write_text("a: [")
    with pytest.raises(InputError, match="is not YAML"):
        load_plan(path)
    path.write_text("seeds: [1]\nreference: plain\nseeds: [2]")
    with pytest.raises(InputError, match=r"study\.yaml: key seeds is given twice, in lines 1 and 3"):
        load_plan(path)
    path.write_text(yaml.safe_dump(plain))
    assert load_plan(path, ["seeds=[3]", "budget.amount=7"]).budget.amount == 7
