import dataclasses
import json
import math

import pyarrow.parquet as pq
import pytest
from scipy import stats

from orchestrator.front.repeats import Repeat, RepeatFile, confirmed
from trainables.errors import InputError


def repeat(trial, index, *val_accuracies, failure=None):
    return Repeat(trial=trial, index=index, seed=100 * trial + index, val_accuracies=val_accuracies, failure=failure)


def test_mean_and_interval_of_each_candidate(make_candidate):
    candidates = [make_candidate(trial=3, level=level, val_accuracy=0.9) for level in (1, 2)]
    repeats = [repeat(3, 1, 0.80, 0.70), repeat(3, 2, 0.84, 0.72), repeat(3, 3, 0.82, 0.71), repeat(4, 1, 0.1, 0.1)]
    first, second = confirmed(candidates, repeats, num_seeds=3)
    assert first.val_accuracies == (0.80, 0.84, 0.82)
    assert second.mean == pytest.approx(0.71)
    wanted = stats.t.interval(0.95, 2, loc=0.82, scale=stats.sem(first.val_accuracies))
    assert first.interval == pytest.approx(wanted)
    assert json.loads(json.dumps(first.to_dict()))["val_accuracy"] == 0.9


def test_failed_repeats_are_counted_and_left_out(make_candidate):
    repeats = [repeat(0, 1, 0.5), repeat(0, 2, failure="diverged")]
    (row,) = confirmed([make_candidate()], repeats, num_seeds=2)
    assert (row.mean, row.interval, row.num_failed) == (0.5, None, 1)
    (none,) = confirmed([make_candidate()], repeats[1:], num_seeds=2)
    assert (none.mean, none.interval, none.num_failed) == (None, None, 1)


def test_an_interval_stays_within_what_an_accuracy_can_be(make_candidate):
    (row,) = confirmed([make_candidate()], [repeat(0, 1, 0.99), repeat(0, 2, 1.0)], num_seeds=2)
    assert row.interval is not None
    assert row.interval[1] == 1.0


def test_counts_that_come_out_alike_are_as_sure_as_their_rounding(make_candidate):
    unknown = [repeat(0, 1, 0.9), repeat(0, 2, 0.9)]
    counted = [dataclasses.replace(one, num_val=100) for one in unknown]
    for repeats in (counted, [unknown[0], counted[1]]):  # a file of before that was added to
        (row,) = confirmed([make_candidate()], repeats, num_seeds=2)
        scale = 1 / (100 * math.sqrt(12 * 2))
        assert row.interval == pytest.approx(stats.t.interval(0.95, 1, loc=0.9, scale=scale))
    (row,) = confirmed([make_candidate()], unknown, num_seeds=2)
    assert row.interval == (0.9, 0.9)


def test_no_more_repeats_than_asked_for_count(make_candidate):
    (row,) = confirmed([make_candidate()], [repeat(0, index, 0.1 * index) for index in (3, 1, 2)], num_seeds=2)
    assert row.val_accuracies == pytest.approx((0.1, 0.2))


def test_repeats_are_read_back_each_once(tmp_path):
    file = RepeatFile(tmp_path / "confirm.parquet")
    assert file.read() == ()
    for one in (repeat(2, 1, 0.5, 0.25), repeat(0, 2, failure="diverged"), repeat(2, 1, 0.9, 0.9)):
        file.add(one)
    assert RepeatFile(file.path).read() == (repeat(0, 2, failure="diverged"), repeat(2, 1, 0.5, 0.25))


def test_a_file_from_before_the_number_of_images_was_kept_is_read_and_added_to(tmp_path):
    file = RepeatFile(tmp_path / "confirm.parquet")
    file.add(repeat(0, 1, 0.5))
    pq.write_table(pq.read_table(file.path).drop_columns(["num_val"]), file.path)
    newer = dataclasses.replace(repeat(0, 2, 0.5), num_val=100)
    file.add(newer)
    assert file.read() == (repeat(0, 1, 0.5), newer)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"thesis"])
def test_a_damaged_file_is_named(tmp_path, content):
    file = RepeatFile(tmp_path / "confirm.parquet")
    file.path.write_bytes(content)
    with pytest.raises(InputError, match=r"confirm\.parquet is damaged; remove it"):
        file.read()


def test_another_parquet_file_is_refused(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), tmp_path / "confirm.parquet")
    with pytest.raises(InputError, match="no file of repeats"):
        RepeatFile(tmp_path / "confirm.parquet").read()


def test_a_file_that_may_not_be_read_is_not_to_be_removed(tmp_path):
    (tmp_path / "confirm.parquet").mkdir()  # which nobody can read as a file, the superuser neither
    with pytest.raises(InputError, match=r"confirm\.parquet cannot be read \(Is a directory\); see to its perm"):
        RepeatFile(tmp_path / "confirm.parquet").read()
