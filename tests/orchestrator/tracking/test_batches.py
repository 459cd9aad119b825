import random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking import records
from orchestrator.tracking.batches import held, identity, steps
from orchestrator.tracking.spool import Spooled

RUNS = ("search", "trial/0", "trial/0/stage/cascade", "trial/1")


def spooled(*plain):
    return [Spooled(start=index, end=index + 1, record=record) for index, record in enumerate(plain)]


def test_figures_of_a_run_go_together_and_a_close_takes_them_along():
    window = spooled(
        records.opening("trial/0", name="trial 0", kind="trial", params={"a": 1}),
        records.logging("trial/0", [("epoch", 1, 1)]),
        records.opening("trial/1", name="trial 1", kind="trial"),
        records.logging("trial/0", [("epoch", 2, 2), ("loss", None, 2), ("loss", float("nan"), 2)]),
        records.closing("trial/0", "finished", tags={"front": "true"}),
        records.logging("trial/1", [("epoch", 1, 1)]),
    )
    done = list(steps(window))
    assert [(kind, record["run"]) for kind, record, _ in done] == [
        ("open", "trial/0"),
        ("open", "trial/1"),
        ("close", "trial/0"),
        ("log", "trial/1"),
    ]
    closed = done[2][2]
    assert [metric[:3] for metric in closed.metrics] == [["epoch", 1.0, 1], ["epoch", 2.0, 2]]
    assert closed.params == {"a": "1"}
    assert closed.tags["cascade.status"] == "finished"
    assert closed.tags["front"] == "true"


def test_what_is_told_of_a_run_waits_for_what_was_set_aside_of_it():
    opened, logged, written, other, page = spooled(
        records.opening("trial/0", name="trial 0", kind="trial", parent="search"),
        records.logging("trial/0", [("epoch", 1, 1)]),
        records.writing("trial/0", "candidates.json", "[]"),
        records.logging("trial/1", [("epoch", 1, 1)]),
        records.overview(),
    )
    window = spooled(
        records.opening("trial/0/network/1", name="network", kind="network", parent="trial/0"),
        records.logging("trial/0/network/1", [("val_accuracy", 0.9, 0)]),
        records.writing("trial/0", "candidates.json", "[1]"),
        records.closing("trial/0", "finished"),
        records.logging("trial/1", [("epoch", 2, 2)]),
        records.overview(),
    )
    assert held(window, []) == []
    assert held(window, [opened, logged]) == window[:4], "without its run nothing of it can be sent"
    assert held(window, [opened, logged], {"trial/0"}) == [window[3]], "it was begun, though its parameters wait"
    assert held(window, [logged]) == [window[3]], "a run that is there takes artifacts, and others are nested in it"
    assert held(window, [written, page]) == []
    assert held(window, [logged, other]) == window[3:5]


def test_networks_are_registered_after_the_beginning_of_their_runs():
    trial, network, logged = spooled(
        records.opening("trial/0", name="trial 0", kind="trial", parent="search"),
        records.opening("trial/0/network/1", name="network", kind="network", parent="trial/0"),
        records.logging("trial/0/network/1", [("val_accuracy", 0.9, 0)]),
    )
    registered = spooled(records.registering("here", [{"label": "2:1"}, {"label": "0:1"}], {"knee": "2:1"}))
    assert held(registered, [trial, network]) == registered
    assert held(registered, [network]) == registered, "its trial's run is there, but not its own"
    assert held(registered, [logged]) == []
    assert held(registered, [trial, network], {"trial/0", "trial/0/network/1"}) == []
    assert held(spooled(records.registering("here", [{"label": "0:2"}], {})), [network]) == [], "another network"


def test_of_artifacts_in_one_place_the_last_is_sent_after_all_runs():
    window = spooled(
        records.writing("search", "front/front.md", "one"),
        records.copying("search", "front.png", "front"),
        records.overview(),
        records.writing("search", "front/front.md", "two"),
        records.overview(),
        records.opening("trial/0", name="trial 0", kind="trial"),
    )
    done = [(kind, record.get("text")) for kind, record, batch in steps(window) if kind != "log"]
    assert done == [("open", None), ("file", None), ("text", "two"), ("overview", None)]


def state(calls):
    """What a sequence of steps leaves behind: of each run its metrics, parameters, tags and status."""
    runs = {}
    for kind, record, batch in calls:
        run = runs.setdefault(record["run"], {"metrics": [], "params": {}, "tags": {}, "status": None, "artifacts": {}})
        for name, value in batch.params.items():
            run["params"].setdefault(name, value)
        run["tags"] |= batch.tags
        for metric in batch.metrics:
            if metric not in run["metrics"]:
                run["metrics"].append(metric)
        if kind == "open":
            run["status"] = "open"
        elif kind == "close":
            run["status"] = record["status"]
        elif kind != "log":
            run["artifacts"][identity(record)] = record
    return runs


def drawn(generator):
    run = generator.choice(RUNS)
    number = generator.randrange(4)
    return generator.choice(
        [
            records.opening(run, name=run, kind="trial", params={f"p{number}": number, "q": number}),
            records.logging(run, [("m", number, number)], tags={"front": str(number)}),
            records.writing(run, f"t{number % 2}", str(number)),
            records.closing(run, "failed", reason=str(number)),
            records.overview(),
        ]
    )


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 12))
def test_batches_leave_behind_what_single_records_do_wherever_they_are_cut_and_repeated(seed, cut):
    generator = random.Random(seed)
    window = spooled(*(drawn(generator) for _ in range(12)))
    singly = state(step for one in window for step in steps([one]))
    at_once = state(steps(window))
    again = state([*steps(window[:cut]), *steps(window)])  # sent in part, and then all of it
    assert at_once == singly
    for run, now in again.items():
        assert {name: now[name] for name in ("status", "artifacts")} == {
            name: singly[run][name] for name in ("status", "artifacts")
        }
        assert sorted(now["metrics"]) == sorted(singly[run]["metrics"])
        assert now["tags"] == singly[run]["tags"]
        assert now["params"] == singly[run]["params"]
