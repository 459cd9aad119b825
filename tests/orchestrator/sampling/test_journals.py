import subprocess
import sys

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

from orchestrator.sampling.journals import JournalFile, JournalLock, mend_journal
from trainables.errors import InputError


@pytest.fixture
def journal(tmp_path):
    """A journal with a study of one trial."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="search", storage=storage(path))
    study.tell(study.ask(), 1.0)
    return path


def storage(path):
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path, patience_seconds=0.01)))


def test_a_lock_that_another_process_keeps_is_said(journal):
    program = (
        "import sys; from optuna.storages.journal import JournalFileSymlinkLock\n"
        "JournalFileSymlinkLock(sys.argv[1]).acquire(); print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        mend_journal(journal)  # the lock is not ours to break
        study = optuna.load_study(study_name="search", storage=storage(journal))
        with pytest.raises(InputError, match=r"study.journal is locked by another process; end what writes to it, or"):
            study.ask()
        other.kill()


def test_other_tools_respect_the_lock_and_find_the_journal_through_it(journal):
    lock = JournalLock(journal)
    lock.acquire()
    assert journal.with_name("study.journal.lock").samefile(journal)
    with pytest.raises(InputError, match="locked"):
        JournalLock(journal, patience_seconds=0.01).acquire()
    lock.release()
    other = JournalFileSymlinkLock(str(journal))
    assert other.acquire()
    other.release()


def test_what_a_killed_driver_left_is_mended(journal):
    before = journal.read_bytes()
    JournalLock(journal).acquire()
    journal.write_bytes(before + b'{"op_code": 4, "worker')
    mend_journal(journal)
    assert journal.read_bytes() == before
    study = optuna.load_study(study_name="search", storage=storage(journal))
    study.tell(study.ask(), 2.0)
    assert len(study.trials) == 2


def test_a_journal_that_is_not_there_needs_no_mending(tmp_path):
    mend_journal(tmp_path / "study.journal")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_a_trial_is_written_spoils_nothing(journal, little_room):
    study = optuna.load_study(study_name="search", storage=JournalStorage(JournalFile(journal)))
    trial = study.ask()
    before = journal.read_bytes()
    with little_room(len(before) + 50), pytest.raises(OSError, match="File too large"):
        trial.set_user_attr("candidates", "x" * 1000)
    assert journal.read_bytes() == before
    trial.set_user_attr("failure", "the disk was full")
    study.tell(trial, 2.0)
    again = optuna.load_study(study_name="search", storage=JournalStorage(JournalFile(journal)))
    assert [found.user_attrs for found in again.trials] == [{}, {"failure": "the disk was full"}]
