"""Memory that a process frees stays with it, in processes of their own, as it cannot be undone."""

import json
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
ROUNDS = 8
JOB = f"""
import json, os, resource, sys, torch
from trainables.hardware.branches import Branches
from trainables.hardware.processor import keep_memory, prepare, return_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() // {MIB}

def show(what):
    for turn in range(2 * {ROUNDS}):  # the first find their places between what else the process makes
        if turn == {ROUNDS}:
            before = faults()
        torch.ones({SIZE}, {MIB} // 4)
    seen = (faults() - before) * resource.getpagesize() // {MIB} // {ROUNDS}
    held = resident()
    return_memory()
    print(json.dumps([seen, held - resident(), what]), flush=True)
"""


def run(script: str) -> list[list]:
    """MiB that each later block of 64 was filled anew with, MiB that went back when asked to, and what was said."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", JOB + script],
        env=kept | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_process_gets_a_large_block_anew_until_it_keeps_memory_of_which_the_user_says_nothing():
    by_itself, *of_memory, of_another = run("""
show(None)
for name, value in (
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "1048576"),
    ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=7"),
):
    os.environ[name] = value
    show(keep_memory())
    del os.environ[name]
os.environ["GLIBC_TUNABLES"] = "glibc.rtld.optional_static_tls=512"
show(keep_memory())
""")
    assert by_itself[0] >= SIZE
    assert [said for _, _, said in of_memory] == [False] * 3
    assert min(again for again, _, _ in of_memory) >= SIZE
    again, returned, said = of_another
    assert again < SIZE / 4
    assert returned > SIZE * 7 / 8
    assert said is True


def test_a_process_that_trains_fills_no_page_twice_until_it_returns_them():
    ((again, returned, share_of_card),) = run("prepare(1, share_of_card=2.0)\nshow(Branches.share_of_card)")
    assert again < SIZE / 4
    assert returned > SIZE * 7 / 8
    assert share_of_card == 1.0


def test_a_process_that_keeps_nothing_can_return_it():
    return_memory()
