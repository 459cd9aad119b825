"""What a terminal is too narrow for is not cut off."""

import io

from rich.console import Console
from rich.table import Table

from orchestrator.tables import print_whole


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
