"""Tables in Parquet files."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.storage.parquet_tables import read_table
from trainables.errors import InputError

NUM_NEW_THREADS = """
import sys
from pathlib import Path
from orchestrator.storage.parquet_tables import read_table

def num_threads():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sum(name != "jemalloc_bg_thd" for name in names)  # which knows nothing of Python's memory

before = num_threads()
read_table(Path(sys.argv[1]))
print(num_threads() - before)
"""


def test_a_table_is_read_whole(tmp_path: Path) -> None:
    table = pa.table({"trial": [0, 1], "label": ["a", None]}).replace_schema_metadata({"key": "value"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(table, check_metadata=True)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_is_left_that_could_outlive_the_interpreter(tmp_path: Path) -> None:
    pq.write_table(pa.table({name: [0.5] * 100 for name in "abcdef"}), tmp_path / "a.parquet")
    command = [sys.executable, "-c", NUM_NEW_THREADS, str(tmp_path / "a.parquet")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "0\n"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.parquet cannot be read \(No such file or directory\)"):
        read_table(tmp_path / "a.parquet")


def test_a_damaged_file_is_told_by_arrow(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(pa.ArrowException):
        read_table(tmp_path / "a.parquet")
