"""When records are sent, kept, set aside or left out; against a store that misbehaves as it is told."""

import itertools
from types import SimpleNamespace

import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.searches.folder import SearchFolder
from orchestrator.tracking import records
from orchestrator.tracking.__main__ import follow
from orchestrator.tracking.backoff import Backoff
from orchestrator.tracking.sender import WINDOW
from orchestrator.tracking.store import RunGone
from orchestrator.tracking.syncing import sync
from trainables.errors import InputError


class Refused(Exception):
    """What a store says of a record that it does not take."""


class FakeStore:
    """Keeps what it takes; what it does not take is decided by the test."""

    place = "http://somewhere cascade"
    address = "http://somewhere"
    _uri = "http://me:s3cret@somewhere"

    def __init__(self):
        self.taken = []
        self.down = None
        self.refuses = lambda kind, run: False
        self.gone = set()
        self.too_large = set()

    def _take(self, kind, run, what=""):
        if self.down:
            raise ConnectionError(self.down)
        if run in self.gone:
            raise RunGone(run)
        if what in self.too_large:
            raise Refused("413 Request Entity Too Large")
        if self.refuses(kind, run):
            raise Refused(f"{kind} of {run} is not to my liking, s3cret")
        self.taken.append((kind, run, what))

    def require(self):
        pass

    def follow(self, search):
        pass

    def forget(self):
        pass

    def probe(self):
        if self.down:
            raise ConnectionError(self.down)

    def open(self, record):
        self._take("open", record["run"])

    def log(self, run, *, metrics, params, tags):
        self._take("log", run, tuple(tuple(metric[:3]) for metric in metrics))

    def close(self, run, status, time_ms, *, tags):
        self._take("close", run, status)

    def write(self, run, path, text):
        self._take("text", run, path)

    def copy(self, run, file, folder):
        self._take("file", run, file.name)

    def read(self, run, sets):
        self._take("data", run)


class Passing(Exception):
    """What MLflow's client says where a proxy answers for the server, or nobody does."""

    error_code = "INTERNAL_ERROR"


class Denied(Exception):
    """What MLflow's client says where we may not do something."""

    error_code = "PERMISSION_DENIED"


class OwnPages:
    """Draws and registers, unless the test says otherwise."""

    def __init__(self):
        self.drawn, self.refuses = 0, False

    def draw(self, store, search):
        if self.refuses:
            raise Refused("413 Request Entity Too Large")
        self.drawn += 1

    def register(self, store, search, record):
        pass


def fails(*which, times=10**6):
    """What a store does that does not take these (kind, run), so many times."""
    left = [times]

    def refuses(kind, run):
        if (kind, run) in which and left[0]:
            left[0] -= 1
            raise Passing("API request to http://somewhere failed with exception too many 503 error responses")
        return False

    return refuses


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """How long was waited before each try of a record; without waiting."""
    waited = []
    monkeypatch.setattr("orchestrator.tracking.sender.sleep", waited.append)
    return waited


@pytest.fixture
def fake():
    return FakeStore()


@pytest.fixture
def sender(make_sender, fake, tracker):
    return make_sender(fake)


def kinds(store, run):
    """What a run was sent, in order; that part of it may come twice is the store's to recognise."""
    return list(dict.fromkeys(kind for kind, of, _ in store.taken if of == run))


def test_what_a_server_that_is_down_does_not_take_is_sent_when_it_is_back(sender, fake, tracker, warnings, make_epoch):
    fake.down = "connection to me:s3cret@somewhere refused"
    tracker.start_trial(0, {})
    assert not sender.send()
    tracker.log_epoch(0, make_epoch(1))
    assert not sender.send()
    assert fake.taken == []
    left = sender.left()
    assert left.num_waiting > 5
    assert "refused" in left.cause
    fake.down = None
    assert sender.send()
    assert sender.left().num_waiting == 0
    assert kinds(fake, "trial/0") == ["open", "log"]
    assert len(warnings) == 1
    assert "records are kept and sent when it does again" in warnings[0]
    assert "s3cret" not in warnings[0]


def test_a_sender_goes_on_where_the_last_one_was(make_sender, sender, fake, tracker):
    assert sender.send()
    before = len(fake.taken)
    tracker.start_trial(0, {})
    assert make_sender(fake).send()
    assert [run for _, run, _ in fake.taken[before:]] == ["trial/0", "trial/0"]


def test_a_window_is_sent_at_a_time_where_that_is_asked(sender, tracker, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sender.WINDOW", 3)
    tracker.start_trial(0, {"temperature": 4.0})
    before = sender.num_waiting
    assert before > 3
    assert sender.send(windows=1)
    assert sender.num_waiting == before - 3
    assert sender.send()
    assert sender.num_waiting == 0


def test_a_record_that_is_refused_is_said_once_and_holds_up_nothing(sender, fake, tracker, warnings):
    fake.refuses = lambda kind, run: run == "trial/0" and kind == "log"
    for trial in (0, 0, 1):
        tracker.start_trial(trial, {"temperature": 4.0})
    assert sender.send()
    assert kinds(fake, "trial/1") == ["open", "log"]
    assert sender.left().num_waiting == 0
    assert [warning.startswith("a record was refused: log of trial/0") for warning in warnings] == [True]
    assert "s3cret" not in warnings[0]


def test_a_record_that_we_may_not_send_is_left_out_where_we_may_send_others(sender, fake, tracker, warnings):
    def denies(kind, run):
        if (kind, run) == ("log", "trial/0"):
            raise Denied("Permission denied")

    fake.refuses = denies
    for trial in (0, 1):
        tracker.start_trial(trial, {"temperature": 4.0})
    assert sender.send()
    assert kinds(fake, "trial/1") == ["open", "log"]
    assert (sender.left().num_waiting, sender.num_left_out) == (0, 1)
    assert warnings == ["a record was refused: Permission denied"]


def test_a_record_that_did_not_arrive_is_tried_again_after_a_while(sender, fake, tracker, warnings, pauses):
    tracker.start_trial(0, {"temperature": 4.0})
    fake.refuses = fails(("log", "trial/0"), times=4)  # one of them of the whole window
    assert sender.send()
    assert kinds(fake, "trial/0") == ["open", "log"]
    assert (sender.left().num_waiting, sender.num_left_out, warnings) == (0, 0, [])
    assert [pause for pause in pauses if pause] == [1.0, 2.0]


def test_what_did_not_arrive_waits_with_what_comes_of_its_run_and_holds_up_nothing_else(
    make_sender, fake, tracker, warnings, make_epoch, make_candidate
):
    tracker.start_trial(0, {"temperature": 4.0})
    tracker.log_epoch(0, make_epoch(1))
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    tracker.start_trial(1, {"temperature": 2.0})
    tracker.finish_trial(1, (make_candidate(1, 1),), "finished")
    fake.refuses = fails(("open", "trial/0"))
    sender = make_sender(fake)
    assert sender.send()
    assert not sender.send_aside()
    assert kinds(fake, "trial/1") == ["open", "log", "text", "close"]
    assert not [run for _, run, _ in fake.taken if run == "trial/0" or run.startswith("trial/0/")], "its own runs wait"
    left = sender.left()
    assert left.num_waiting > 5
    assert "503" in left.cause
    assert sender.num_left_out == 0
    assert len(warnings) == 1
    assert "takes no records now" in warnings[0]
    before = len(fake.taken)
    fake.refuses = lambda kind, run: False
    again = make_sender(fake)  # as what waits is noted, another start sends it too
    tracker.finish("finished")
    assert again.send()
    assert again.send_aside()
    assert again.left().num_waiting == 0
    late = [(kind, run) for kind, run, _ in fake.taken[before:]]
    assert late.index(("open", "trial/0")) < late.index(("open", "trial/0/network/1"))
    assert [kind for kind, run in late if run == "trial/0"][-1] == "close"
    assert kinds(fake, "trial/0/network/1") == ["open", "log", "close"]


def test_a_record_that_never_arrives_holds_up_its_own_run_alone(sender, fake, tracker, make_epoch):
    fake.refuses = fails(("log", "trial/0"))
    tracker.start_trial(0, {"temperature": 4.0})
    for number in range(1, 4):
        tracker.start_trial(number, {"temperature": 4.0})
        tracker.log_epoch(number, make_epoch(1))
        assert sender.send()
        assert not sender.send_aside()
        assert "log" in kinds(fake, f"trial/{number}")
    assert kinds(fake, "trial/0") == ["open"]
    assert sender.left().num_waiting >= 1


def test_a_run_that_was_begun_does_not_hold_up_what_is_nested_in_it(make_sender, fake, tracker):
    fake.refuses = fails(("log", "search"))  # also what was told as it began
    for _ in range(2):
        tracker.start_trial(0, {"temperature": 4.0})
        tracker._outbox.put(records.writing("search", "config.yaml", "data: digits"))
        sender = make_sender(fake)
        assert sender.send()
        assert not sender.send_aside()
        assert kinds(fake, "trial/0") == ["open", "log"]
        assert kinds(fake, "search") == ["open", "text"]
        fake.taken.clear()


def test_a_server_that_takes_none_of_some_records_is_one_that_takes_nothing_now(sender, fake, tracker, make_epoch):
    for trial in range(9):
        tracker.start_trial(trial, {})
    assert sender.send()
    for trial in range(9):
        tracker.log_epoch(trial, make_epoch(1, stage=f"stage-{trial}"))
    fake.refuses = lambda kind, run: fails((kind, run))(kind, run)
    waiting = [sender.num_waiting]
    for _ in range(3):
        assert not sender.send()
        waiting.append(sender.num_waiting)
    assert set(waiting) == {waiting[0]}, "nothing is lost"
    fake.refuses = lambda kind, run: False
    assert sender.send()
    assert sender.send_aside()
    assert sender.left().num_waiting == 0
    assert all("log" in kinds(fake, f"trial/{trial}") for trial in range(9))


def follow_to_the_end(sender):
    follow(sender, SimpleNamespace(has_ended=True), sync="cascade sync")


@pytest.fixture
def sync_here(fake, tmp_path, warnings, monkeypatch):
    """Has `cascade sync` send the spool to the store of the test, instead of a sender."""

    def synced(sender):
        monkeypatch.setattr("orchestrator.tracking.syncing.MlflowStore", lambda **_: fake)
        (tmp_path / "digits/experiment.yaml").write_text(Experiment().to_yaml())
        (tmp_path / "digits/search-id").write_text("search-7")
        sync(SearchFolder(storage=tmp_path, name="digits"), uri=None, from_start=False, warn=warnings.append)

    return synced


@pytest.mark.parametrize("how", ["at the end of a search", "by cascade sync"])
def test_who_sends_but_once_sends_what_is_behind_records_that_do_not_arrive(
    sender, fake, tracker, sync_here, how, pauses
):
    for trial in range(12):
        tracker.start_trial(trial, {"temperature": 4.0})
    tracker.finish("finished")
    fake.refuses = fails(*(("open", f"trial/{trial}") for trial in range(9)))
    (follow_to_the_end if how == "at the end of a search" else sync_here)(sender)
    taken = {run for kind, run, _ in fake.taken if kind == "close"}
    assert taken == {"trial/9", "trial/10", "trial/11", "search"}
    assert len([pause for pause in pauses if pause]) == 9, "of three, until nothing more is expected of the next one"


def test_a_file_that_is_never_taken_holds_up_no_other(make_sender, fake, tracker, warnings):
    sender = make_sender(fake)
    assert sender.send()
    fake.refuses = lambda kind, run: kind == "text"
    for trial in range(5):
        tracker._outbox.put(records.writing("search", f"{trial}.json", "[]"))
    assert sender.send()
    assert sender.left().num_waiting == 5
    before = len(fake.taken)
    fake.refuses = lambda kind, run: False
    fake.too_large = {"0.json", "1.json", "2.json", "3.json"}
    for _ in range(2):
        sender = make_sender(fake)  # who starts anew goes on with the others
        assert not sender.send_aside()
    assert [what for _, _, what in fake.taken[before:]] == ["4.json"]
    assert sender.left().num_waiting == 4
    fake.too_large = set()
    assert make_sender(fake).send_aside()


def test_a_file_of_a_run_that_was_deleted_since_does_not_wait_for_ever(sender, fake, tracker, warnings):
    tracker.start_trial(0, {})
    assert sender.send()
    fake.refuses = lambda kind, run: kind == "text"
    tracker._outbox.put(records.writing("trial/0", "candidates.json", "[]"))
    assert sender.send()
    assert sender.left().num_waiting == 1
    fake.gone = {"trial/0"}
    assert sender.send_aside()
    assert (sender.left().num_waiting, sender.num_left_out) == (0, 1)
    assert "trial/0 was deleted there or never begun" in warnings[-1]


def test_a_page_that_cannot_be_drawn_holds_up_no_other_that_was_put_off(make_sender, fake, tracker, make_view):
    for number in range(WINDOW):
        tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.5, num_trials=number)
        tracker._outbox.put(records.overview())
    pages = OwnPages()
    pages.refuses = True
    fake.too_large = {"front/front.md"}
    sender = make_sender(fake, pages)
    assert sender.send()
    fake.too_large = set()
    assert not sender.send_aside()
    assert sender.left().num_waiting == 1, "all but the page"
    pages.refuses = False
    assert sender.send_aside()
    assert pages.drawn == 1


def test_files_that_are_not_taken_are_set_aside_and_the_last_of_each_is_sent_later(
    sender, fake, tracker, warnings, make_view, tmp_path
):
    fake.refuses = lambda kind, run: kind in ("text", "file")
    picture = tmp_path / "digits/front.png"
    picture.touch()
    for number in (1, 2):
        view = make_view((0, 1, 0.9, 0.1 / number))
        tracker.log_front(view, hypervolume=0.1 * number, num_trials=number, figures=[picture])
    assert sender.send()
    assert "log" in kinds(fake, "search"), "figures are taken all the same"
    left = sender.left()
    assert (left.num_waiting, "not to my liking" in left.cause) == (8, True)  # of each path the newest
    sender.send_aside()
    assert sender.left().num_waiting == 8
    fake.refuses = lambda kind, run: False
    sender.send_aside()
    assert sender.left().num_waiting == 0
    assert sorted(what for kind, _, what in fake.taken if kind == "text") == [
        "config.yaml",
        "environment/environment.json",
        "environment/requirements.txt",
        "front/front.json",
        "front/front.md",
        "front/history/after-trial-00001.json",
        "front/history/after-trial-00002.json",
    ]
    assert len(warnings) == 1
    assert "takes figures, but no files" in warnings[0]


def test_a_file_that_was_replaced_since_is_not_sent_any_more(sender, fake, tracker, make_view, tmp_path):
    picture = tmp_path / "digits/front.png"
    picture.touch()
    fake.refuses = lambda kind, run: kind == "text"
    tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.1, num_trials=1, figures=[picture])
    assert sender.send()
    fake.refuses = lambda kind, run: False
    tracker.log_front(make_view((0, 1, 0.9, 0.05)), hypervolume=0.2, num_trials=2, figures=[picture])
    assert sender.send()
    before = len(fake.taken)
    sender.send_aside()
    assert sorted(what for _, _, what in fake.taken[before:]) == [
        "config.yaml",
        "environment/environment.json",
        "environment/requirements.txt",
        "front/history/after-trial-00001.json",
    ]


def test_what_comes_of_a_deleted_run_is_left_out(sender, fake, tracker, warnings, make_epoch):
    tracker.start_trial(0, {})
    assert sender.send()
    fake.gone = {"trial/0"}
    tracker.log_epoch(0, make_epoch(1))
    tracker.start_trial(1, {})
    assert sender.send()
    assert kinds(fake, "trial/1") == ["open", "log"]
    assert warnings == [
        "the run of trial/0 was deleted there or never begun; what comes of it is left out, and "
        "`cascade sync --again` records it anew"
    ]


def test_all_is_sent_again_on_demand(sender, fake, tracker):
    assert sender.send()
    before = list(fake.taken)
    sender.rewind()
    assert sender.send()
    assert fake.taken == before + before


def test_each_thing_that_a_slow_server_takes_is_news_before_the_window_is_sent(make_sender, fake, tracker):
    tracker.start_trial(0, {"temperature": 4.0})
    told = []
    sender = make_sender(fake)
    sender._told = lambda num: told.append((num, len(fake.taken)))
    assert sender.send()
    *within, (num_sent, num_taken) = told
    assert within == [(0, number) for number in range(1, num_taken + 1)]
    assert num_sent > 0


def test_each_try_of_a_record_is_news_while_the_server_answers(make_sender, fake, tracker):
    happened = []

    def refuses(kind, run):
        if (kind, run) == ("log", "trial/0"):
            happened.append("a try")
            raise Passing("API request to http://somewhere failed with exception Read timed out")

    tracker.start_trial(0, {})
    sender = make_sender(fake)
    assert sender.send()
    tracker._outbox.put(records.logging("trial/0", [("epoch", 1, 1)]))
    fake.refuses = refuses
    sender._told = lambda num: happened.append("news")
    assert sender.send()
    assert happened.count("a try") == 6
    pairs = list(itertools.pairwise(happened))
    assert pairs.count(("a try", "a try")) == 1, "of the whole window, and of the record"


def test_many_records_go_in_windows(make_sender, fake, tracker, make_epoch):
    for number in range(1, WINDOW + 1):
        tracker.log_epoch(0, make_epoch(number, num_epochs=10**6))
    sizes = []
    sender = make_sender(fake)
    sender._told = sizes.append
    assert sender.send()
    assert [size for size in sizes if size][:2] == [WINDOW, WINDOW]
    steps = [metric[2] for kind, run, what in fake.taken if run == "trial/0" and kind == "log" for metric in what]
    assert sorted(set(steps)) == list(range(1, WINDOW + 1))


def test_pages_are_drawn_once_where_much_is_left_to_send(make_sender, fake, tracker, make_view):
    class Pages:
        drawn = 0

        def draw(self, store, search):
            Pages.drawn += 1

    for number in range(WINDOW):
        tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.5, num_trials=number)
        tracker._outbox.put(records.overview())
    sender = make_sender(fake, Pages())
    assert sender.send()
    assert sender.left().num_waiting <= 1
    assert sender.send_aside()
    assert Pages.drawn == 1
    assert sender.left().num_waiting == 0
    tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.5, num_trials=number)
    tracker._outbox.put(records.overview())
    assert sender.send()
    assert Pages.drawn == 2


def test_a_deleted_experiment_holds_records_back(sender, fake, tracker, warnings):
    def deleted():
        raise InputError("experiment 'here' was deleted; restore it, and records are sent")

    fake.refuses = lambda kind, run: True
    fake.probe = deleted
    assert not sender.send()
    assert sender.left().num_waiting > 0
    assert "experiment 'here' was deleted" in warnings[0]


def test_tries_become_rarer_up_to_half_a_minute():
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    waits = []
    for _ in range(8):
        assert backoff.is_over
        backoff.failed()
        started = now[0]
        while not backoff.is_over:
            now[0] += 0.5
        waits.append(now[0] - started)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    backoff.failed()
    backoff.worked()
    assert backoff.is_over
