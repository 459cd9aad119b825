import json
import os
import subprocess
import sys

import pytest

from orchestrator.tracking.spool import Progress, Spool


def filled(folder, number):
    spool = Spool(folder / "tracking")
    for index in range(number):
        spool.append({"kind": "log", "run": str(index)})
    return spool


def test_records_come_back_in_their_order_and_from_where_one_left_off(tmp_path):
    spool = filled(tmp_path, 5)
    first, offset = spool.read(most=2)
    rest, end = spool.read(offset)
    assert [one.record["run"] for one in first + rest] == ["0", "1", "2", "3", "4"]
    assert end == spool.path.stat().st_size
    assert spool.read(first[1].start, most=1)[0] == [first[1]]


def test_a_line_that_a_kill_cut_swallows_nothing(tmp_path):
    spool = filled(tmp_path, 2)
    with spool.path.open("ab") as file:
        file.write(b'{"kind": "lo')
    assert len(spool.read()[0]) == 2
    again = Spool(tmp_path / "tracking")
    again.append({"kind": "log", "run": "after"})
    assert [one.record["run"] for one in again.read()[0]] == ["0", "1", "after"]


def test_a_line_that_is_being_written_is_not_read(tmp_path):
    spool = filled(tmp_path, 1)
    with spool.path.open("ab") as file:
        file.write(b'{"kind": "log", "run": "x"}')
    found, offset = spool.read()
    assert (len(found), offset) == (1, found[0].end)


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path, little_room):
    now = [0.0]
    spool = Spool(tmp_path / "tracking", clock=lambda: now[0])
    spool.append({"kind": "log", "run": "0"})
    before = spool.path.read_bytes()
    with little_room(len(before) + 5):
        with pytest.raises(OSError, match="File too large"):
            spool.append({"kind": "log", "run": "1"})
        assert spool.path.read_bytes() == before
        spool.append({"kind": "log", "run": "2"})  # too soon to try again
        now[0] += 1.0
        with pytest.raises(OSError, match="File too large"):
            spool.append({"kind": "log", "run": "3"})
    now[0] += 1.0
    spool.append({"kind": "log", "run": "4"})
    spool.append({"kind": "log", "run": "5"})
    assert [one.record["run"] for one in spool.read()[0]] == ["0", "1", "2", "3", "4", "5"]


def test_what_is_in_memory_is_written_in_the_end(tmp_path, little_room):
    spool = filled(tmp_path, 1)
    with little_room(5), pytest.raises(OSError, match="File too large"):
        spool.append({"kind": "log", "run": "1"})
    spool.close()
    assert len(spool.read()[0]) == 2


def test_progress_is_kept_for_each_address(tmp_path):
    spool = filled(tmp_path, 3)
    end = spool.path.stat().st_size
    spool.note_progress("http://a cascade", Progress(offset=end, aside=(0,)))
    assert spool.progress("http://a cascade") == Progress(offset=end, aside=(0,))
    assert spool.progress("http://b cascade") == Progress()
    assert (spool.num_waiting("http://a cascade"), spool.num_waiting("http://b cascade")) == (1, 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"offset": "x", "aside": []}'])
def test_a_damaged_note_of_progress_counts_as_none(tmp_path, content):
    spool = filled(tmp_path, 1)
    spool.note_progress("a", Progress(offset=5))
    (note,) = spool.folder.glob("sent-*.json")
    note.write_bytes(content)
    assert spool.progress("a") == Progress()


def test_progress_beyond_the_file_is_its_end(tmp_path):
    spool = filled(tmp_path, 2)
    spool.note_progress("a", Progress(offset=10**6, aside=(0, 10**6)))
    assert spool.progress("a") == Progress(offset=spool.path.stat().st_size, aside=(0,))


def test_no_address_is_written_down_with_a_password(tmp_path):
    from orchestrator.tracking.store import MlflowStore

    store = MlflowStore(uri="http://me:s3cret@host:5000/?token=abc", storage=tmp_path, experiment="x")
    spool = filled(tmp_path, 1)
    spool.note_progress(store.place, Progress())
    (note,) = spool.folder.glob("sent-*.json")
    assert json.loads(note.read_text())["address"] == "http://host:5000/ x"


def test_what_a_sender_that_was_killed_had_half_written_goes_when_the_next_one_begins(tmp_path):
    spool = filled(tmp_path, 1)
    spool.note_progress("a", Progress(offset=5))
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    (spool.folder / f".sent-0123.json.{killed.pid}").touch()
    (spool.folder / f".links.json.{os.getppid()}").touch()  # of a process that lives
    before = {path.name for path in spool.folder.iterdir()}
    with spool.sending():
        assert {path.name for path in spool.folder.iterdir()} == before - {f".sent-0123.json.{killed.pid}"} | {"lock"}
