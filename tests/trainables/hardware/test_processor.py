"""Memory that a process frees stays with it, in processes of their own, as it cannot be undone."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.hardware.processor import return_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is glibc's to keep")

MIB = 2**20
SIZE = 64  # MiB, of a block that glibc by itself returns at once
ROUNDS = 16
JOB = f"""
import resource, sys, torch
from trainables.hardware.branches import Branches
from trainables.hardware.processor import keep_memory, prepare, return_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() // {MIB}

if sys.argv[1] == "prepare":
    prepare(1, share_of_card=2.0)
    assert Branches.share_of_card == 1.0
else:
    print(keep_memory() if sys.argv[1] == "keep" else None, file=sys.stderr)
for turn in range(2 * {ROUNDS}):  # the first find their places between what else the process makes
    if turn == {ROUNDS}:
        before = faults()
    torch.ones({SIZE}, {MIB} // 4)
seen = (faults() - before) * resource.getpagesize() // {MIB} // {ROUNDS}
held = resident()
return_memory()
print(seen, held - resident())
"""


def run(what: str, **environment: str) -> tuple[int, int, str]:
    """MiB that each later block of 64 was filled anew with, MiB that went back when asked to, and what was said."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", JOB, what],
        env=kept | {"PYTHONPATH": str(Path(__file__).parents[3])} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    again, returned = map(int, done.stdout.split())
    return again, returned, done.stderr.strip()


def test_by_itself_a_process_gets_a_large_block_anew():
    again, _, _ = run("leave")
    assert again >= SIZE


@pytest.mark.parametrize("how", ["keep", "prepare"])
def test_a_process_that_trains_fills_no_page_twice_until_it_returns_them(how):
    again, returned, said = run(how)
    assert again < SIZE / 4
    assert returned > SIZE * 7 / 8
    assert said == ("True" if how == "keep" else "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_MMAP_THRESHOLD_", "1048576"),
        ("MALLOC_TRIM_THRESHOLD_", "1048576"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=7"),
    ],
)
def test_what_the_user_says_of_memory_stands(name, value):
    again, _, said = run("keep", **{name: value})
    assert again >= SIZE
    assert said == "False"


def test_what_the_user_says_of_other_things_says_nothing_of_memory():
    again, _, _ = run("keep", GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512")
    assert again < SIZE / 4


def test_a_process_that_keeps_nothing_can_return_it():
    return_memory()
