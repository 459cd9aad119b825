"""Whole studies of seconds: every method, going on after a stop, the choice of learning rates."""

import dataclasses
import itertools
import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from orchestrator import pool
from orchestrator.evidence import peer, processes
from orchestrator.evidence.__main__ import main
from orchestrator.evidence.arms import run_arm, versions
from orchestrator.evidence.material import Material, load_images, prepare_teacher, read_teacher
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.processes import NotBegunError, OutOfTimeError, run_study
from orchestrator.evidence.results import ResultFile, RunResult
from orchestrator.evidence.schedule import chosen_rate, next_run, num_runs
from orchestrator.evidence.settings import Run
from orchestrator.storage.locks import locked
from trainables.errors import InputError
from trainables.hardware import processor
from trainables.identity import sources_of

METHODS = {
    "plain": {},
    "chain": {"assistants": 1, "cascade": {"schedule": "sequential"}},
    "all": {"method": "one-cascade"},
    "scratch": {"method": "from-scratch", "cascade": {"distillation_weight": 0}},
    "peer": {"method": "torch-pruning", "importance": "l2"},
}


def material(plan: StudyPlan, folder: Path) -> Material:
    images = load_images(plan)
    return Material(plan=plan, teacher=prepare_teacher(plan, images, folder), data=images.data, test=images.test)


def test_every_method_gives_networks_of_the_sizes_within_the_budget(plain, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(peer, "STEPS", 20)
    monkeypatch.setattr(peer, "STAYS", 0.85)
    plan = StudyPlan.from_dict(plain | {"sizes": [0.5, 0.3], "arms": METHODS, "budget": {"amount": 6}})
    shared = material(plan, tmp_path)
    wanted = {"plain": [0.3], "chain": [0.3**0.5, 0.3], "all": [0.5, 0.3], "scratch": [0.3], "peer": [0.3]}
    for name, sizes in wanted.items():
        result = run_arm(plan.run(name, 0.3, 1, 0.05, "measured"), shared)
        assert result.failure is None
        assert [found.macs_kept for found in result.found] == pytest.approx(sizes, rel=0.05)
        assert all(0 <= found.test_accuracy <= 1 for found in result.found)
        assert result.work == pytest.approx(12 if name == "all" else 6, rel=0.3)
        assert result.config["recipe"]["epochs"] == result.epochs > 0
    assert result.device == "cpu"
    assert result.versions["torch"] == torch.__version__


def test_recovery_is_within_the_epochs_that_each_method_has(plain, tmp_path: Path) -> None:
    plain["cascade"] |= {"recovery_epochs": 1}
    arms = METHODS | {"assistant": {"assistants": 1}}
    plan = StudyPlan.from_dict(plain | {"sizes": [0.5, 0.3], "arms": arms, "budget": {"amount": 4, "unit": "epochs"}})
    shared = material(plan, tmp_path)
    for name in arms:
        ticks: list[None] = []
        result = run_arm(plan.run(name, 0.3, 1, 0.05, "measured"), shared, lambda ticks=ticks: ticks.append(None))
        assert result.failure is None
        assert len(ticks) == result.epochs == (8 if name == "all" else 4)


@pytest.mark.parametrize("name", ["narrow.py", "peer.py"])
def test_other_code_of_an_arm_is_another_version(name, monkeypatch):
    before = versions()
    monkeypatch.setattr("orchestrator.evidence.arms.sources_of", lambda package: sources_of(package) | {name: "other"})
    assert {key for key, value in versions().items() if value != before[key]} == {"arms"}


def test_the_seed_decides(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)
    shared = material(plan, tmp_path)
    for arm in plan.arms:
        runs = [run_arm(plan.run(arm, 0.3, seed, 0.05, "measured"), shared).found for seed in (1, 1, 2)]
        assert runs[0] == runs[1] != runs[2]


def test_a_failure_is_a_result(plain, tmp_path: Path) -> None:
    plain["cascade"] = plain["cascade"] | {"recipe": {"batch_size": 32, "learning_rate": 1e12}}
    plan = StudyPlan.from_dict(plain)
    result = run_arm(plan.run("plain", 0.3, 1, 1e12, "measured"), material(plan, tmp_path))
    assert result.found == ()
    assert result.failure is not None
    assert "\n" not in result.failure


def test_a_study_goes_on_where_it_was_cut_off(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)
    images, said = load_images(plan), []
    assert run_study(plan, images, tmp_path, device=torch.device("cpu"), say=said.append)
    file = ResultFile(tmp_path / "results.jsonl")
    first = file.read()
    assert len(first) == num_runs(plan) == 4
    assert len(said) == 1 + 4  # the teacher's epoch, and a line a run
    # A kill in the midst of a line leaves a part of it: that run is done again, to the same end.
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-30])
    said.clear()
    assert run_study(plan, images, tmp_path, device=torch.device("cpu"), say=said.append)
    assert len(said) == 1
    again = file.read()
    assert {key: result.found for key, result in again.items()} == {key: r.found for key, r in first.items()}
    assert not run_study(
        dataclasses.replace(plan, seeds=(1, 2, 3)), images, tmp_path, device=torch.device("cpu"), seconds=0.0
    )
    file.path.write_bytes(b"{}\n" + content)
    with pytest.raises(InputError, match=r"line 1 of .* is damaged; remove that line"):
        file.read()


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_each_teacher_of_a_folder_is_trained_once_and_told_of(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)
    images, epochs = load_images(plan), []
    one = prepare_teacher(plan, images, tmp_path, told=epochs.append)
    same = prepare_teacher(plan, images, tmp_path, told=epochs.append)
    assert len(epochs) == 1
    assert same_weights(one, same)
    about = read_teacher(plan, tmp_path)
    assert 0 <= about["test_accuracy"] <= 1
    other = dataclasses.replace(plan, teacher_seed=1)
    assert read_teacher(other, tmp_path) == {}
    assert not same_weights(one, prepare_teacher(other, images, tmp_path, told=epochs.append))
    assert len(epochs) == 2
    assert read_teacher(other, tmp_path)["digest"] != about["digest"]
    assert read_teacher(plan, tmp_path) == about
    assert same_weights(one, prepare_teacher(plan, images, tmp_path, told=epochs.append))
    assert len(epochs) == 2


def test_a_teacher_that_an_earlier_version_kept_is_taken(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)
    images, epochs = load_images(plan), []
    one = prepare_teacher(plan, images, tmp_path)
    about = read_teacher(plan, tmp_path)
    for path in (tmp_path / "teachers").iterdir():
        path.rename(tmp_path / f"teacher{path.suffix}")
    other = dataclasses.replace(plan, teacher_seed=1)
    assert read_teacher(other, tmp_path) == {}
    prepare_teacher(other, images, tmp_path, told=epochs.append)
    assert len(epochs) == 1
    assert read_teacher(plan, tmp_path) == about
    assert same_weights(one, prepare_teacher(plan, images, tmp_path, told=epochs.append))
    assert len(epochs) == 1


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"digest": "a", "test_accuracy": "abc"}', b"\xff"])
@pytest.mark.parametrize("place", ["teacher.json", "teachers/*.json"])
def test_a_teacher_of_whom_nothing_can_be_read_is_told(plain, tmp_path: Path, place: str, content: bytes) -> None:
    plan = StudyPlan.from_dict(plain)
    images, epochs = load_images(plan), []
    if place != "teacher.json":
        prepare_teacher(plan, images, tmp_path)
    (card,) = tmp_path.glob(place) if "*" in place else [tmp_path / place]
    card.write_bytes(content)
    with pytest.raises(InputError, match=f"{card} is damaged; remove it, and the teacher is trained anew"):
        prepare_teacher(plan, images, tmp_path, told=epochs.append)
    with pytest.raises(InputError, match="is damaged"):
        read_teacher(plan, tmp_path)
    assert epochs == []
    card.unlink()
    prepare_teacher(plan, images, tmp_path, told=epochs.append)
    assert len(epochs) == 1


def test_weights_of_a_teacher_that_were_cut_off_are_told(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)
    images, epochs = load_images(plan), []
    one = prepare_teacher(plan, images, tmp_path)
    (weights,) = (tmp_path / "teachers").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match=f"{weights} is damaged; remove it, and the teacher is trained anew"):
        prepare_teacher(plan, images, tmp_path, told=epochs.append)
    assert epochs == []
    weights.unlink()
    assert same_weights(one, prepare_teacher(plan, images, tmp_path, told=epochs.append))
    assert len(epochs) == 1


def test_the_best_rate_on_validation_images_is_used_for_every_seed(plain, tmp_path: Path) -> None:
    plain["tuning"] = {"learning_rates": [1e-6, 0.05, 1e12]}
    plan = StudyPlan.from_dict(plain | {"arms": {"plain": {}}})
    assert num_runs(plan) == 3 + 2
    run = next_run(plan, {})
    assert run is not None
    assert (run.purpose, run.seed, run.learning_rate) == ("tuning", 0, 1e-6)
    assert chosen_rate(plan, "plain", 0.3, {}) is None
    assert run_study(plan, load_images(plan), tmp_path, device=torch.device("cpu"), say=lambda _: None)
    results = ResultFile(tmp_path / "results.jsonl").read()
    tries = {
        r.learning_rate: r.found[-1].val_accuracy if r.found else -1 for r in results.values() if r.purpose == "tuning"
    }
    best = max(tries, key=lambda rate: tries[rate])
    assert {r.learning_rate for r in results.values() if r.purpose == "measured"} == {best}
    assert best != 1e12


def test_time_that_is_over_gives_a_run_up(plain, tmp_path: Path) -> None:
    plan = StudyPlan.from_dict(plain)

    def over() -> None:
        raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        run_arm(plan.run("plain", 0.3, 1, 0.05, "measured"), material(plan, tmp_path), over)


def test_a_clock_that_is_set_forward_gives_no_run_up(plain, tmp_path: Path, monkeypatch) -> None:
    plan, began = StudyPlan.from_dict(plain | {"arms": {"plain": {}}, "seeds": [1]}), time.time()
    monkeypatch.setattr(time, "time", itertools.count(began, 3600.0).__next__)
    assert run_study(plan, load_images(plan), tmp_path, device=torch.device("cpu"), seconds=3600.0, say=lambda _: None)


def test_more_images_than_there_are_is_refused(plain) -> None:
    with pytest.raises(InputError, match=r"images.train is 9999, but there are \d+; ask for at most as many"):
        load_images(StudyPlan.from_dict(plain | {"images": {"train": 9999}}))


@pytest.mark.parametrize(("train", "val"), [(10, 11), (99, 12), (101, 286), (1146, 100)])
def test_as_many_images_as_are_asked_for_are_used_and_classes_keep_their_shares(plain, train: int, val: int) -> None:
    every = load_images(StudyPlan.from_dict(plain | {"images": {}})).data
    data = load_images(StudyPlan.from_dict(plain | {"images": {"train": train, "val": val}})).data
    for some, of, number in ((data.train, every.train, train), (data.val, every.val, val)):
        counts_C = torch.bincount(some.labels_N, minlength=10)
        shares_C = torch.bincount(of.labels_N) * number / len(of)
        assert int(counts_C.sum()) == len(some) == number
        assert (counts_C - shares_C).abs().max() < 1


def test_fewer_images_than_classes_are_refused(plain) -> None:
    with pytest.raises(
        InputError, match=r"images.val is 9, but there are 10 classes; ask for at least one image of each"
    ):
        load_images(StudyPlan.from_dict(plain | {"images": {"val": 9}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"amount": 1}}, "arms.plain at size 0.3: budget.amount is 1, but 1 epoch would cost"),
        ({"model": {"name": "vgg-huge"}}, "model.name is 'vgg-huge', but must be one of"),
        ({"sizes": [0.001]}, "arms.plain at size 0.001: a size is 0.001, but no network below 0."),
        (
            {"cascade": {"pruning": {"saliency": "best"}}},
            "arms.plain at size 0.3: cascade.pruning.saliency is 'best', but",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(plain, tmp_path: Path, capsys, change, message) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain | change))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("workers", "0", "--workers is 0, but must be a whole number of at least 1"),
        ("threads", "0", "--threads is 0, but must be a whole number of at least 1"),
        ("minutes", "-1", "--minutes is -1.0, but must be a number above 0"),
        ("minutes", "nan", "--minutes is nan, but must be a finite number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(plain, tmp_path: Path, capsys, option: str, value: str, message: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    assert main([str(path), "--out", str(tmp_path / "out"), f"--{option}={value}"]) == 2
    assert capsys.readouterr().err == f"evidence: {message}\n"
    assert not (tmp_path / "out").exists()


def test_a_tilde_that_no_shell_made_a_home_is_the_users_home(plain, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain))
    with locked(tmp_path / "out", "study"):
        assert main(["~/tiny.yaml", "--out=~/out"]) == 2
    assert "study 'out' is running in another process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_in_a_line(plain, tmp_path: Path, capsys) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain))
    for place, why in (("/proc/none", "No such file or directory"), (f"{tmp_path}/tiny.yaml/out", "Not a directory")):
        assert main([str(tmp_path / "tiny.yaml"), "--out", place]) == 2
        assert capsys.readouterr().err == f"evidence: {place} cannot be made ({why}); choose another place\n"


def test_a_second_process_is_kept_out(plain, tmp_path: Path, capsys) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    with locked(tmp_path / "out", "study"):
        assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert "study 'out' is running in another process" in capsys.readouterr().err


def test_a_stop_is_told(plain, tmp_path: Path, monkeypatch, capsys) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "run_arm", stopped)
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    assert main([str(path), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "evidence: stopped; what is done is kept, and the same command goes on\n"


def test_time_that_is_over_is_told(plain, tmp_path: Path, capsys) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    assert main([str(path), "--out", str(tmp_path / "out"), "--minutes", "1e-9"]) == 3
    assert capsys.readouterr().out.endswith("time is over; what is done is kept, and the same command goes on\n")


class InThisProcess(ThreadPoolExecutor):
    """A pool of one that begins and works here."""

    def __init__(self, _workers: int, _context: object, **begin: Any) -> None:
        super().__init__(1, **begin)


@pytest.mark.parametrize(("options", "of_workers"), [((), 1), (("--threads", "3"), 3)])
def test_each_process_has_the_threads_that_are_asked_for(
    plain, tmp_path: Path, monkeypatch, options: tuple[str, ...], of_workers: int
) -> None:
    told: list[tuple[int | None, float]] = []

    def prepare(num_threads: int | None, *, share_of_card: float = 1.0) -> None:
        told.append((num_threads, share_of_card))

    monkeypatch.setattr(processor, "prepare", prepare)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # which is of the whole process
    monkeypatch.setattr(pool, "ProcessPoolExecutor", InThisProcess)
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain | {"arms": {"plain": {}}, "seeds": [1]}))
    assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "2", *options]) == 0
    assert told == [(of_workers if options else None, 1.0), (of_workers, 0.5)]


def test_what_keeps_a_process_from_beginning_is_told(plain, tmp_path: Path, monkeypatch, capsys) -> None:
    def damaged(*_: Any) -> Any:
        raise InputError("the teacher's file is damaged")

    monkeypatch.setattr(processor, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(processes, "material_of", damaged)
    monkeypatch.setattr(processes, "_HELD", {})
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 2
    assert capsys.readouterr().err == "evidence: the teacher's file is damaged\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_raises_loses_no_other_and_is_tried_again(
    plain, tmp_path: Path, monkeypatch, capsys, workers: str
) -> None:
    def raises(run: Run, *given: Any) -> RunResult:
        if (run.arm, run.seed) == ("plain", 1):
            raise RuntimeError("CUDA out of memory\nTried to allocate")
        return run_arm(run, *given)

    monkeypatch.setattr(processor, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(processes, "run_arm", raises)
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    command = [str(path), "--out", str(tmp_path / "out"), "--workers", workers]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "measured plain, size 0.3, seed 1, rate 0.05: lost (RuntimeError: CUDA out of memory)\n" in told.out
    assert told.err == "evidence: 1 run lost, as is said above; the same command tries again\n"
    assert len(ResultFile(tmp_path / "out" / "results.jsonl").read()) == 3
    monkeypatch.setattr(processes, "run_arm", run_arm)
    assert main(command) == 0
    assert len(ResultFile(tmp_path / "out" / "results.jsonl").read()) == 4


@pytest.mark.parametrize("error", [NotBegunError(InputError("the teacher's file is damaged")), BrokenProcessPool()])
def test_what_ends_a_study_loses_no_run_that_others_end(
    plain, tmp_path: Path, monkeypatch, result_of: Callable[[Run], RunResult], error: Exception
) -> None:
    raised = Event()

    def work(run: Run, _: float | None) -> RunResult:
        if run.arm == "plain":
            raised.set()
            raise error
        assert raised.wait(60)
        return result_of(run)

    monkeypatch.setattr(processes, "_work", work)
    plan, file = StudyPlan.from_dict(plain), ResultFile(tmp_path / "results.jsonl")
    with ThreadPoolExecutor(2) as threads, pytest.raises((InputError, BrokenProcessPool)):
        processes._together(threads, plan, 2, file, None, lambda _: None)
    assert [result.arm for result in file.read().values()] == ["scratch"]


@pytest.mark.integration
def test_a_process_that_is_killed_is_told(plain, tmp_path: Path, monkeypatch, capsys) -> None:
    others = multiprocessing.active_children()

    def killed(*args: Any, **kwargs: Any) -> Any:
        for child in set(multiprocessing.active_children()) - set(others):
            child.kill()
        return wait(*args, **kwargs)

    monkeypatch.setattr(processes, "wait", killed)
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "2"]) == 1
    assert capsys.readouterr().err == (
        "evidence: a process that trains was killed, or memory ran out, of which fewer --workers take less; what is "
        "done is kept, and the same command goes on\n"
    )


@pytest.mark.integration
def test_the_command_runs_a_study_in_several_processes(plain, tmp_path: Path, capsys) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(plain))
    options = [
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "2",
        "--minutes",
        "20",
        "--set",
        "budget.amount=4",
    ]
    assert main(options) == 0
    assert len(ResultFile(tmp_path / "out" / "results.jsonl").read()) == 4
    assert "measured scratch, size 0.3, seed 2" in capsys.readouterr().out
    assert main([str(path), "--set", "sizes=[2]"]) == 2
    assert "evidence: a size in sizes is 2, but must be" in capsys.readouterr().err
