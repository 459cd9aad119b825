import pytest

from orchestrator.journal import mend
from orchestrator.study import Study
from search_spaces.cascade import CascadeDefaults, CascadeSpace


@pytest.fixture
def journal(tmp_path):
    """The journal of a study with two trials."""
    path = tmp_path / "study.journal"
    study = open_study(path)
    for _ in range(2):
        study.ask(CascadeSpace(), CascadeDefaults())
    return path


def open_study(path):
    return Study(path, objectives=("val_accuracy", "macs_kept"), seed=0)


def test_a_whole_journal_is_left_as_it_is(journal):
    before = journal.read_bytes()
    mend(journal)
    assert journal.read_bytes() == before


def test_a_journal_that_is_not_there_stays_so(tmp_path):
    mend(tmp_path / "study.journal")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", [b'{"op_code": 4, "wor', b"{}{}\n", b"\0" * 300, b"\0" * 30 + b"\n", b"7\n"])
def test_half_a_record_is_cut_off_and_the_study_goes_on(journal, rest):
    before = journal.read_bytes()
    journal.write_bytes(before + rest)
    mend(journal)
    assert journal.read_bytes() == before
    study = open_study(journal)
    study.ask(CascadeSpace(), CascadeDefaults())
    assert [asked.number for asked in open_study(journal).running()] == [0, 1, 2]


def test_a_journal_that_is_cut_anywhere_is_read(journal):
    content = journal.read_bytes()
    for length in range(0, len(content), 97):
        journal.write_bytes(content[:length])
        mend(journal)
        kept = journal.read_bytes()
        assert content.startswith(kept)
        assert kept == b"" or kept.endswith(b"\n")
        assert len(open_study(journal).running()) <= 2


def test_the_lock_of_a_dead_process_is_removed(journal):
    lock = journal.with_name("study.journal.lock")
    lock.symlink_to(journal)
    journal.with_name("study.journal.lock1234.rename").touch()
    mend(journal)
    assert [path.name for path in journal.parent.iterdir()] == ["study.journal"]
    open_study(journal).ask(CascadeSpace(), CascadeDefaults())  # at once
