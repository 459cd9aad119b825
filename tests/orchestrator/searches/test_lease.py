"""The lease of a search in a bucket, on a real S3 server: one driver at a time."""

import json
import threading

import pytest

from orchestrator.searches import lease as leases
from orchestrator.searches.lease import LEASE, Lease, LeaseLostError
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(s3):
    return Bucket(s3)


@pytest.fixture
def lease(bucket):
    """Makes leases, and leaves them in the end."""
    made = []

    def make():
        made.append(Lease(bucket))
        return made[-1]

    yield make
    for one in made:
        one.leave()


def failing_once(read):
    """What of all that a thread of a lease asks first is answered with an error that nobody thought of."""
    failed = []

    def read_or_fail(self, name):
        if threading.current_thread().name == "lease" and not failed:
            failed.append(name)
            raise RuntimeError("what nobody thought of")
        return read(self, name)

    return read_or_fail


def test_a_second_driver_is_refused_while_the_first_one_lives_whatever_keeps_it_busy(lease, monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.05)
    lease().take(print)  # and does nothing more
    monkeypatch.setattr(Bucket, "read", failing_once(Bucket.read))
    said = []
    with pytest.raises(InputError, match=r"driven by a process on .*; wait for it or stop it"):
        lease().take(said.append)
    assert said[0].startswith("the search was driven from")


def test_a_driver_that_died_here_is_followed_at_once(lease, bucket):
    first = lease()
    first.take(print)
    holder = json.loads(bucket.read(LEASE))
    bucket.write(LEASE, json.dumps(holder | {"pid": 999999999}).encode())
    second = lease()
    second.take(pytest.fail)
    with pytest.raises(LeaseLostError, match="driven from"):
        first.keep()
    first.release()
    second.keep()
    second.release()
    assert bucket.read(LEASE) is None


def test_a_process_of_another_container_is_not_taken_for_dead(lease, bucket):
    first = lease()
    first.take(print)
    holder = json.loads(bucket.read(LEASE))
    other = {"pid": 999999999, "boot": f"{holder['boot'].partition(' ')[0]} pid:[1]"}
    bucket.write(LEASE, json.dumps(holder | other).encode())
    said = []
    lease().take(said.append, seconds=0.0)
    assert len(said) == 1  # that it waits


def test_a_driver_elsewhere_that_is_silent_is_followed_after_a_while(lease, bucket):
    bucket.write(LEASE, b'{"owner": "other", "host": "elsewhere"}')
    said = []
    follower = lease()
    follower.take(said.append, seconds=0.0)
    assert [line.partition(";")[0] for line in said] == ["the search was driven from elsewhere, and not ended there"]
    follower.keep()


def test_a_lease_that_was_lost_is_not_taken_back(lease, bucket, monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.01)
    first, renewed = lease(), threading.Event()
    write = Lease._write

    def told(self):
        write(self)
        renewed.set()

    first.take(print)
    monkeypatch.setattr(Lease, "_write", told)
    assert renewed.wait(30)
    first.leave()
    first._thread.join()
    bucket.write(LEASE, b'{"owner": "other", "host": "elsewhere"}')
    first._left.clear()
    first._renew()  # ends by itself
    first.release()
    assert b"elsewhere" in bucket.read(LEASE)
