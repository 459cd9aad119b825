"""The state of a search in a bucket, on a real S3 server, and working copies of it: each of one moment."""

import itertools
import os
import shutil
import threading

import pytest

from orchestrator.sampling.storages import find_or_make_study, find_study, study_address
from orchestrator.sampling.warm_start import find_sources
from orchestrator.searches import folder as folders
from orchestrator.searches import layout
from orchestrator.searches.asked import Asked
from orchestrator.searches.curves import Curves
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import CURVES, STATE, TEACHER
from orchestrator.searches.mirror import Mirror, driving
from orchestrator.searches.places import open_search
from orchestrator.searches.snapshot import OBJECTS, Note, Snapshots, fetch, read_note, read_state, write_note
from orchestrator.storage.bucket import Bucket
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.results import EpochProgress

pytestmark = pytest.mark.integration


def content(folder):
    names = Snapshots(folder).take()[0]
    return {name: (folder / name).read_bytes() for name in names}


def test_every_file_of_a_search_is_carried_or_has_a_way_of_its_own():
    of_folders = {
        *layout.CARRIED_FOLDERS,
        *layout.WRITTEN,
        layout.TRACKING,
        layout.CONFIRM,
        layout.EXPORTS,
        layout.STAGES,
        layout.ARTIFACTS,
    }
    own_ways = {layout.TEACHER_RESULT, layout.TEACHER_NETWORK, layout.STATE}
    drawn_anew = {layout.LINKS, *layout.FOR_PEOPLE} - {layout.ARCHIVE}
    names = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)}
    assert names - of_folders - own_ways - drawn_anew == set(layout.CARRIED)


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


def test_a_working_copy_knows_what_trials_that_run_have_trained(search, mirror, tmp_path):
    curves = Curves(search.path / CURVES)
    curves.started(Asked(number=0, cascade=CascadeConfig(macs_kept=(0.5,))), {})
    for epoch in (1, 2):
        progress = EpochProgress(
            stage="cascade", epoch=epoch, num_epochs=3, trial_epoch=epoch, learning_rate=0.1, seconds=2.0, levels=()
        )
        curves.epoch(0, progress, trained=epoch)
    mirror.carry()
    fetch(search.bucket, tmp_path / "other")
    assert Curves(tmp_path / "other" / CURVES).trained(0) == 2


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


def go_on_in_an_outage(search, mirror):
    """Carry what is there, and come to results that the bucket never takes."""
    mirror.carry()
    mirror._lease.release()
    (search.path / "archive.new.jsonl").write_text("trial 2, in an outage")
    (search.path / "candidates/2-1").mkdir(parents=True)
    (search.path / "tracking").mkdir()
    (search.path / "tracking/spool.jsonl").write_text("{}\n")


def test_results_that_the_bucket_never_took_are_put_aside_when_the_search_went_on_elsewhere(
    search, mirror, elsewhere, s3, caplog
):
    (search.path / "archive.parquet").write_text("trial 1")
    go_on_in_an_outage(search, mirror)
    elsewhere(study_journal="1\n2\n")
    open_search(s3, "mine")
    assert content(search.path) == content(search.path.parents[2] / "elsewhere/mine")
    (kept,) = search.path.parent.glob("mine.kept-*")
    assert (kept / "archive.new.jsonl").read_text() == "trial 2, in an outage"
    assert (kept / "candidates/2-1").is_dir()
    # What MLflow has of the search is of the one that went on: nothing of this is sent there any more.
    assert [path.relative_to(kept).as_posix() for path in kept.rglob("spool.jsonl")] == ["tracking.kept/spool.jsonl"]
    assert f"`cascade front {kept.name} --storage {kept.parent}` shows them" in caplog.text
    elsewhere(study_journal="1\n2\n3\n")
    open_search(s3, "mine")  # nothing more to put aside
    assert content(search.path)["study.journal"] == b"1\n2\n3\n"
    assert [*search.path.parent.glob("mine.kept-*")] == [kept]


def test_what_was_put_aside_is_a_search_of_its_own_that_can_go_on(search, mirror, elsewhere, s3):
    experiment = search.experiment()
    (search.path / "study.journal").unlink()
    find_or_make_study(study_address(experiment, search))
    mirror.carry()
    mirror._lease.release()
    (search.path / "archive.new.jsonl").write_text("trial 2, in an outage")
    elsewhere(archive_parquet="trial 2, another one")
    before = search.search_id
    open_search(s3, "mine")
    (kept,) = search.path.parent.glob("mine.kept-*")
    aside = SearchFolder(storage=kept.parent, name=kept.name)
    assert search.search_id == before != aside.search_id
    for folder in (search, aside):
        assert find_study(study_address(experiment, folder)) is not None


class Killed(Exception):
    """Instead of a signal that ends the process."""


def kill_at(step, monkeypatch):
    """Let all from the so many-th change to the names of files on fail, as a kill before it would."""
    steps = itertools.count()

    def until(change):
        def do(*args, **named):
            if next(steps) >= step:
                raise Killed
            return change(*args, **named)

        return do

    for name in ("mkdir", "rename", "replace", "rmdir", "unlink"):
        monkeypatch.setattr(os, name, until(getattr(os, name)))


def test_a_kill_while_results_are_put_aside_is_made_up_for_by_the_next_fetch(
    search, mirror, elsewhere, s3, tmp_path, monkeypatch
):
    experiment = search.experiment()
    search.study_file.unlink()
    find_or_make_study(study_address(experiment, search))
    go_on_in_an_outage(search, mirror)
    elsewhere(archive_parquet="trial 2, another one")
    there = content(tmp_path / "elsewhere/mine")
    killed = True
    for step in itertools.count():
        storage = tmp_path / str(step)
        shutil.copytree(search.path, storage / "mine")
        with monkeypatch.context() as patched:
            kill_at(step, patched)
            try:
                fetch(search.bucket, storage / "mine")
                killed = False
            except Killed:
                pass
        for path in storage.glob("mine.kept-*"):  # nobody comes upon half of it
            aside = SearchFolder(storage=storage, name=path.name)
            assert find_study(study_address(experiment, aside)) is not None
        fetch(search.bucket, storage / "mine")
        assert content(storage / "mine") == there
        assert {path.name for path in (storage / "mine").iterdir()} <= {*there, "lock", ".bucket"}
        (kept,) = storage.glob("mine.kept-*")
        assert (kept / "archive.new.jsonl").read_text() == "trial 2, in an outage"
        assert (kept / "candidates/2-1").is_dir()
        assert not (kept / "tracking").exists()
        aside = SearchFolder(storage=storage, name=kept.name)
        assert aside.search_id != search.search_id
        assert find_study(study_address(experiment, aside)) is not None
        if not killed:
            break
    assert step > 10


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


def test_a_place_that_holds_something_else_is_left_alone(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    Bucket(s3).write("mine/holiday.jpg", b"")
    with pytest.raises(InputError, match=r"/mine.* holds holiday.jpg, but no search"):
        open_search(s3, "mine")
    with pytest.raises(InputError, match="the name is 'a/b', but must be"):
        open_search(s3, "a/b")
    assert isinstance(open_search(tmp_path, "mine"), SearchFolder)


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


def test_a_teacher_that_a_driver_here_is_about_to_finish_is_left_to_it(search, mirror, s3, tmp_path):
    mirror.carry()
    (search.teacher / "network").mkdir(parents=True)
    (search.teacher / "network/weights").write_text("the driver's")
    place = search.bucket.within(TEACHER)
    place.push(search.teacher / "network", "network")
    place.write("result.json", b"{}")
    (search.teacher / "network/weights").write_text("the driver's, at work")
    with search.locked():
        open_search(s3, "mine")
        assert (search.teacher / "network/weights").read_text() == "the driver's, at work"
        assert not (search.teacher / "result.json").exists()
    open_search(s3, "mine")
    assert (search.teacher / "network/weights").read_text() == "the driver's"
    assert (search.teacher / "result.json").exists()


def test_a_search_to_learn_from_that_is_not_there_is_missed_in_the_bucket(search, mirror):
    mirror.carry()
    with pytest.raises(InputError, match=r"'other' is neither a search in s3://models/\w+\?.* \(there: mine\) nor a"):
        find_sources(["other"], folder=search, objectives=("val_accuracy",))
