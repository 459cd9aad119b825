"""What is printed is there as it was written, on a narrow terminal too."""

import io

from rich.console import Console
from rich.table import Table

from orchestrator.tables import print_line, print_whole


def test_a_line_is_printed_as_it_is():
    console = Console(file=io.StringIO(), width=20, force_terminal=True)
    text = "trial 3 of [bold]12[/bold] is in /a/folder/with/a/long/name, 'quoted', after 1.5 s :smile:"
    print_line(console, text)
    assert console.file.getvalue() == f"{text}\n"


def test_what_a_terminal_would_obey_is_printed_as_python_writes_it():
    console = Console(file=io.StringIO(), force_terminal=True)
    print_line(console, "the class a\x1b[2K\r\u202eb\nstays whole")
    assert console.file.getvalue() == r"the class a\x1b[2K\r\u202eb" + "\nstays whole\n"


def test_a_table_keeps_all_its_words_on_a_narrow_terminal():
    table = Table(title="words", box=None)
    words = [f"a-rather-long-word-{number}" for number in range(5)]
    for word in words:
        table.add_column(word)
    table.add_row(*words)
    console = Console(file=io.StringIO(), width=40)
    print_whole(console, table)
    title, head, row = console.file.getvalue().splitlines()
    assert title.strip() == "words"
    assert head.split() == row.split() == words
