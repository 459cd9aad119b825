"""What is printed when its reader has gone."""

import os
import subprocess
import sys

import pytest

# What commands do: a line that is read, then work whose every line nobody reads, JSON, and last words.
WORKING = """
import sys
from rich.console import Console
from orchestrator.streams import print_what_can_be
from orchestrator.tables import print_last, print_line

print_what_can_be()
print_line(Console(), "begins")
sys.stdout.flush()
sys.stdin.read()
for number in range(20_000):
    print_line(Console(), f"trial {number} done")
sys.stdout.write("[]" * 100_000 + "\\n")
print("note → said", file=sys.stderr)
print_last(Console(), "go on with: this")
sys.stdout.write("{}\\n")
"""


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_work_goes_on_when_the_reader_of_its_output_goes_and_last_words_are_said_where_they_are_read(environment):
    working = subprocess.Popen(
        [sys.executable, "-c", WORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"},
    )
    assert working.stdout.readline() == "begins\n"
    working.stdout.close()
    working.stdin.close()
    err = working.stderr.read()
    working.stderr.close()
    assert (working.wait(60), err) == (0, "note ? said\ngo on with: this\n")


def test_a_table_that_nobody_reads_to_its_end_is_no_failure(tiny_search):
    for words in (["--help"], ["presets", "demo"], ["front", "tiny"], ["front", "tiny", "--format", "json"]):
        reader, writer = os.pipe()
        os.close(reader)  # as `head` has ended before the first word
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=tiny_search,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, ""), words
