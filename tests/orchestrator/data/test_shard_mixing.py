"""The order of rows that are mixed on disk: each once, of all files, and as likely as any other."""

from collections import Counter

import pytest

from orchestrator.data import shard_mixing
from orchestrator.data.shard_mixing import MixedRows, Mixing, Row
from orchestrator.data.shards import schema_of


def rows(number, label=lambda number: number % 3):
    return [Row(name=f"row {each}", label=label(each), encoded=bytes([each % 256])) for each in range(number)]


def mixed(given, folder, *, seed=0, num_bytes=0, labels="one"):
    return list(MixedRows(given, Mixing(seed=seed, num_bytes=num_bytes), folder, schema_of(labels)))


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(shard_mixing, "_FILE_BYTES", 100)
    monkeypatch.setattr(shard_mixing, "_CHUNK", 7)


@pytest.mark.parametrize("num_bytes", [0, 700, 10**9])
@pytest.mark.parametrize("number", [0, 1, 200])
def test_each_row_comes_once_and_no_file_is_left(small_files, tmp_path, number, num_bytes):
    drawn = mixed(rows(number), tmp_path, num_bytes=num_bytes)
    assert sorted(drawn, key=lambda row: int(row.name[4:])) == rows(number)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_gives_one_order(small_files, tmp_path):
    first, again, other = (mixed(rows(50), tmp_path, num_bytes=500, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_rows_keep_several_labels(tmp_path):
    given = rows(9, lambda number: tuple(range(number % 3)))
    assert {row.name: row.label for row in mixed(given, tmp_path, labels="several")} == {
        row.name: row.label for row in given
    }


@pytest.mark.parametrize("num_bytes", [0, 150])
def test_any_order_is_as_likely_as_any_other(small_files, tmp_path, num_bytes):
    seen = Counter(
        "".join(row.name[4:] for row in mixed(rows(3), tmp_path, seed=seed, num_bytes=num_bytes)) for seed in range(300)
    )
    assert len(seen) == 6
    assert sum((count - 50) ** 2 / 50 for count in seen.values()) < 20.5  # chi square, one in a thousand
