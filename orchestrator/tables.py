"""Lines and tables on the terminal."""

from rich.console import Console
from rich.segment import Segments
from rich.table import Table

from orchestrator.streams import is_gone
from orchestrator.words import printable

_WIDER_THAN_ANY = 1000


def print_line(console: Console, text: str) -> None:
    """Print a text as it is: nothing in it is markup, numbers are not coloured, and the terminal alone wraps it.

    What a terminal would obey is `printable`, such as a class's name may hold.
    """
    text = "\n".join(map(printable, text.split("\n")))
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_last(console: Console, text: str) -> None:
    """Print a line that must be read, how to go on say: on standard error where nobody reads the console any more."""
    print_line(console, text)
    if is_gone(console.file):
        print_line(Console(stderr=True), text)


def print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as its words are: what a narrow terminal wraps can be read, what is cut off cannot."""
    # `Console.print` takes no width beyond the terminal's.
    whole = console.render(table, console.options.update(width=_WIDER_THAN_ANY))
    console.print(Segments(whole), crop=False, end="")
