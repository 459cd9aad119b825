"""A search's state in a bucket, on a real S3 server: all of one moment, or of the moment before, and one driver."""

import shutil
import threading

import pytest

from orchestrator import folder as folders
from orchestrator import mirror as mirrors
from orchestrator.bucket import Bucket
from orchestrator.config import Experiment
from orchestrator.folder import STATE, SearchFolder
from orchestrator.lease import LEASE, Lease, LeaseLostError
from orchestrator.mirror import Mirror, driving
from orchestrator.places import open_search
from orchestrator.snapshot import OBJECTS, Note, Snapshots, fetch, read_note, read_state, write_note
from trainables.errors import InputError

pytestmark = pytest.mark.integration


@pytest.fixture
def search(s3, tmp_path, monkeypatch):
    """A search that has begun, in a bucket that does not know of it yet."""
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    folder = open_search(s3, "mine")
    folder.begin(Experiment(), data="d" * 64)
    (folder.path / "study.journal").write_text("1\n")
    return folder


@pytest.fixture
def mirror(search):
    held = Lease(search.bucket)
    held.take(print)
    made = Mirror(search.bucket, search.path, held, print, seconds=0.01)
    yield made
    made.close()
    held.leave()


def content(folder):
    names = Snapshots(folder).take()[0]
    return {name: (folder / name).read_bytes() for name in names}


def test_files_of_one_moment_are_read_while_the_search_writes(tmp_path, monkeypatch):
    (tmp_path / "study.journal").write_text("trial 1 runs\n")
    (tmp_path / "archive.parquet").write_text("")
    read = Snapshots._read

    def read_while_written(self, name, version):
        found = read(self, name, version)
        if name == "study.journal" and "done" not in (tmp_path / "study.journal").read_text():
            (tmp_path / "archive.parquet").write_text("candidates of trial 1")
            (tmp_path / "study.journal").write_text("trial 1 runs\ntrial 1 done\n")
        return found

    monkeypatch.setattr(Snapshots, "_read", read_while_written)
    files, changed = Snapshots(tmp_path).take()
    assert changed[files["archive.parquet"]] == b"candidates of trial 1"
    assert changed[files["study.journal"]].endswith(b"done\n")


def test_a_state_comes_back_as_it_was_and_what_it_does_not_name_goes(search, mirror, tmp_path):
    (search.path / "archive.new.jsonl").write_text("{}")
    mirror.carry()
    (search.path / "archive.new.jsonl").unlink()
    (search.path / "curves/_running").mkdir(parents=True)
    (search.path / "curves/_running/00000.jsonl").write_text("{}")
    mirror.carry()
    other = tmp_path / "other"
    other.mkdir()
    (other / "archive.new.jsonl").write_text("of an earlier state")
    (other / "study.journal").write_text("of an earlier state")
    fetch(search.bucket, other)
    assert content(other) == content(search.path)
    assert "archive.new.jsonl" not in content(other)


def test_objects_without_a_state_are_not_read_and_old_ones_go(search, mirror, monkeypatch, tmp_path):
    mirror.carry()
    before = read_state(search.bucket)
    (search.path / "study.journal").write_text("2\n")

    def killed(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.carry()
    assert read_state(search.bucket) == before
    fetch(search.bucket, tmp_path / "other")
    assert (tmp_path / "other/study.journal").read_text() == "1\n"
    mirror._lease.release()
    for text in ("3\n", "4\n"):  # by drivers that come after
        (search.path / "study.journal").write_text(text)
        with driving(search, print) as later:
            later.begin()
    kept = set(read_state(search.bucket).files.values())
    assert kept <= set(search.bucket.names(OBJECTS))
    assert len(set(search.bucket.names(OBJECTS)) - kept) <= 1  # of the state before, for who reads it now


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda bucket, state: bucket.write(STATE, b"{"), "state.json in .* is damaged"),
        (
            lambda bucket, state: bucket.write(STATE, state.replace(b'"format": 1', b'"format": 9')),
            "upgrade the program",
        ),
        (lambda bucket, state: bucket.write(STATE, state.replace(b"study.j", b"../dy.j")), "no file of a search"),
        (lambda bucket, state: [bucket.remove(f"{OBJECTS}/{o}") for o in bucket.names(OBJECTS)], "lacks objects"),
        (lambda bucket, state: [bucket.write(f"{OBJECTS}/{o}", b"") for o in bucket.names(OBJECTS)], "is damaged"),
    ],
)
def test_a_damaged_state_is_refused_and_the_working_copy_left(search, mirror, tmp_path, damage, said):
    mirror.carry()
    damage(search.bucket, search.bucket.read(STATE))
    with pytest.raises(InputError, match=said):
        fetch(search.bucket, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_working_copy_is_replaced_only_where_the_bucket_has_gone_beyond_it(search, mirror, s3):
    mirror.carry()
    (search.path / "study.journal").write_text("1\n2\n")  # not carried yet
    open_search(s3, "mine")
    assert (search.path / "study.journal").read_text() == "1\n2\n"
    write_note(search.path, Note(ids=("of another machine",)))
    with search.locked():
        open_search(s3, "mine")  # while its driver runs here
        assert (search.path / "study.journal").read_text() == "1\n2\n"
    open_search(s3, "mine")
    assert (search.path / "study.journal").read_text() == "1\n"
    search.bucket.remove(STATE)
    with pytest.raises(InputError, match=r"no longer holds search 'mine', of which .*cache.* is a working copy"):
        open_search(s3, "mine")


def test_a_bucket_that_fails_is_told_of_once_and_has_all_in_the_end(search, monkeypatch):
    said, fails, failed = [], threading.Event(), threading.Event()
    write = Bucket.write

    def flaky(self, name, content):
        if fails.is_set():
            failed.set()
            raise OSError("no route to host")
        write(self, name, content)

    monkeypatch.setattr(Bucket, "write", flaky)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})
    with driving(search, said.append) as mirror:
        mirror.begin()
        fails.set()
        (search.path / "study.journal").write_text("1\n2\n")
        assert failed.wait(30)
        fails.clear()
    assert [line.partition(" ")[2] for line in said] in (
        [],  # it failed as the search ended, and not again
        ["does not take what the search writes (no route to host); the search goes on, and it is tried again",
         "has all that the search wrote"],
    )  # fmt: skip
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "1\n2\n"
    assert search.bucket.read(LEASE) is None


def drive(search, say, meanwhile):
    with driving(search, say) as mirror:
        mirror.begin()
        meanwhile()


def test_what_a_bucket_lacks_in_the_end_is_said_with_where_it_is(search, monkeypatch):
    def gone(self):
        raise OSError("gone")

    def meanwhile():
        (search.path / "study.journal").write_text("1\n2\n")
        monkeypatch.setattr(Lease, "keep", gone)

    with pytest.raises(
        OSError, match=r"lacks the last of what .* came to \(gone\); it is kept in .*mine, and --resume"
    ):
        drive(search, print, meanwhile)
    assert (search.path / "study.journal").read_text() == "1\n2\n"


def test_a_search_that_was_taken_over_stops(search, monkeypatch):
    stopped, said = threading.Event(), []
    monkeypatch.setattr(mirrors._thread, "interrupt_main", stopped.set)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})
    states = []

    def meanwhile():
        states.append(search.bucket.read(STATE))
        search.bucket.write(LEASE, b'{"owner": "other", "host": "elsewhere"}')
        assert stopped.wait(30)
        (search.path / "study.journal").write_text("of the one that lost it")

    with pytest.raises(OSError, match=r"driven from elsewhere now.*; it is kept in .*mine, and put beside it when"):
        drive(search, said.append, meanwhile)
    assert [search.bucket.read(STATE)] == states
    assert b"elsewhere" in search.bucket.read(LEASE)
    assert said == ["the search is driven from elsewhere now; this process ends"]


def test_a_place_that_holds_something_else_is_left_alone(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    Bucket(s3).write("mine/holiday.jpg", b"")
    with pytest.raises(InputError, match=r"/mine.* holds holiday.jpg, but no search"):
        open_search(s3, "mine")
    with pytest.raises(InputError, match="the search's name is 'a/b'"):
        open_search(s3, "a/b")
    assert isinstance(open_search(tmp_path, "mine"), SearchFolder)


@pytest.fixture
def elsewhere(search, tmp_path):
    """Let a driver on another machine go on with the search, and change files of it."""

    def go_on(**files):
        folder = SearchFolder(storage=tmp_path / "elsewhere", name=search.name, bucket=search.bucket)
        with driving(folder, print) as mirror:
            for name, text in files.items():
                (folder.path / name.replace("_", ".")).write_text(text)
            mirror.begin()

    return go_on


def test_what_arrived_though_its_answer_was_lost_is_known_as_ones_own(search, mirror, s3, monkeypatch):
    mirror.carry()
    write = Bucket.write_for_certain

    def answer_lost(self, name, content):
        write(self, name, content)
        raise OSError("connection reset")

    def unreachable(self, name, content):
        raise OSError("no route to host")

    for outage in (answer_lost, unreachable, unreachable):
        (search.path / "study.journal").write_text(f"{len(content(search.path)['study.journal'])}\n one trial more\n")
        monkeypatch.setattr(Bucket, "write_for_certain", outage)
        with pytest.raises(OSError, match=r"reset|route"):
            mirror.carry()
    before = content(search.path)
    open_search(s3, "mine")  # by --resume, once the driver has ended
    assert content(search.path) == before
    monkeypatch.setattr(Bucket, "write_for_certain", write)
    mirror.carry()
    fetch(search.bucket, search.path.parent / "other")
    assert content(search.path.parent / "other") == before


def test_results_that_the_bucket_never_took_are_put_aside_when_the_search_went_on_elsewhere(
    search, mirror, elsewhere, s3, caplog
):
    (search.path / "archive.parquet").write_text("trial 1")
    mirror.carry()
    mirror._lease.release()
    (search.path / "archive.new.jsonl").write_text("trial 2, in an outage")
    (search.path / "candidates/2-1").mkdir(parents=True)
    elsewhere(study_journal="1\n2\n")
    open_search(s3, "mine")
    assert content(search.path) == content(search.path.parents[2] / "elsewhere/mine")
    (kept,) = search.path.parent.glob("mine.kept-*")
    assert (kept / "archive.new.jsonl").read_text() == "trial 2, in an outage"
    assert (kept / "candidates/2-1").is_dir()
    assert f"`cascade front {kept.name} --storage {kept.parent}` shows them" in caplog.text
    elsewhere(study_journal="1\n2\n3\n")
    open_search(s3, "mine")  # nothing more to put aside
    assert content(search.path)["study.journal"] == b"1\n2\n3\n"
    assert [*search.path.parent.glob("mine.kept-*")] == [kept]


def test_how_far_a_spool_was_sent_is_forgotten_with_it(search, mirror, elsewhere, s3):
    def spooled(text):
        spool.write_text(text)
        note.touch()

    spool, note = search.path / "tracking/spool.jsonl", search.path / "tracking/sent-0.json"
    spool.parent.mkdir()
    spooled("1\n")
    mirror.carry()
    mirror._lease.release()
    elsewhere(study_journal="2\n")
    spooled("1\n2\n")  # after the last that the bucket took
    open_search(s3, "mine")
    assert spool.read_text() == "1\n"
    assert not note.exists()
    spooled("1\n")
    elsewhere(study_journal="3\n")
    open_search(s3, "mine")
    assert note.exists()


def test_a_driver_whose_lease_seems_its_own_again_does_not_write_over_another_ones_state(search, mirror, elsewhere):
    mirror.carry()
    held = search.bucket.read(LEASE)
    search.bucket.remove(LEASE)
    elsewhere(study_journal="of another driver")
    search.bucket.write(LEASE, held)  # a renewal that was under way for minutes
    (search.path / "study.journal").write_text("of the first one")
    with pytest.raises(LeaseLostError, match="has gone on elsewhere"):
        mirror.carry()
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "of another driver"


def test_a_search_that_was_begun_while_this_one_started_is_brought_here_before_anything_is_checked(
    search, mirror, elsewhere, s3, tmp_path
):
    late = SearchFolder(storage=tmp_path / "late", name="mine", bucket=search.bucket)
    mirror.carry()
    mirror._lease.release()
    with driving(late, print), pytest.raises(InputError, match="holds a search already; go on with it by --resume"):
        late.require_fresh_or_same(Experiment(), resume=False)


def test_an_error_of_any_kind_is_no_end_of_carrying(search, monkeypatch):
    said, failed = [], threading.Event()
    take = Snapshots.take

    def unlikely(self):
        if not failed.is_set() and threading.current_thread().name == "mirror":
            failed.set()
            raise RuntimeError("what nobody thought of")
        return take(self)

    monkeypatch.setattr(Snapshots, "take", unlikely)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})

    def meanwhile():
        assert failed.wait(30)
        (search.path / "study.journal").write_text("1\n2\n")

    drive(search, said.append, meanwhile)
    assert "(what nobody thought of); the search goes on, and it is tried again" in said[0]
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "1\n2\n"


def test_a_stop_by_the_user_says_what_the_bucket_lacks(search, monkeypatch):
    said = []

    def gone(self):
        raise OSError("gone")

    def stopped():
        monkeypatch.setattr(Lease, "keep", gone)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(search, said.append, stopped)
    assert "lacks the last of what this process came to (gone)" in said[-1]


def test_who_reads_waits_for_another_that_brings_the_working_copy_up_to_date(search, mirror, s3, monkeypatch):
    mirror.carry()
    shutil.rmtree(search.path)
    waits, found = threading.Event(), []
    flock = folders.fcntl.flock

    def told(file, how):
        if how == folders.fcntl.LOCK_EX:
            waits.set()
        flock(file, how)

    def read():
        found.append(content(open_search(s3, "mine").path))

    with search.fetching():
        monkeypatch.setattr(folders.fcntl, "flock", told)
        reader = threading.Thread(target=read)
        reader.start()
        assert waits.wait(30)
        assert not found
    reader.join(30)
    assert found[0]["study.journal"] == b"1\n"
    assert len(read_note(search.path).ids) == 1


def test_what_a_try_of_the_bucket_left_is_no_other_content(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    place = Bucket(s3).within("mine")
    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "remove", lambda self, name: (_ for _ in ()).throw(OSError("may not remove")))
        with pytest.raises(InputError, match="cannot be removed from: may not remove"):
            place.require_usable()
    open_search(s3, "mine")
