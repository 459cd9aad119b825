"""Numbers and names as people read them."""

import unicodedata

# What a terminal obeys, what turns the direction of writing, what is not seen, and what is no Unicode.
_UNSEEN = ("Cc", "Cf", "Cs")
_JOINERS = "\u200c\u200d"  # which words of Persian and Hindi are written with, and emoji


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction, with so many decimals from 10 % on, and below that with as many digits but for zeros at their end.

    What is below a thousandth of a percent is 0.
    """
    if abs(fraction) < 1e-5:
        fraction = 0.0
    is_short = fraction < 0.1 - 5 * 10.0 ** -(decimals + 3)  # what is rounded to 10 % is not
    return f"{100 * fraction:.{decimals + 1}g} %" if is_short else f"{100 * fraction:.{decimals}f} %"


def duration(seconds: float) -> str:
    """Seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def counted(number: int, noun: str) -> str:
    """So many things, as in `1 trial` and `2,000 trials`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(name: str) -> str:
    """A name with what could not be seen in it, or would change what stands around it, written as Python writes it.

    Names of files may have any characters, and on Linux be no Unicode.
    """
    if name.isprintable():
        return name
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNSEEN and char not in _JOINERS
        else char
        for char in name
    )


def storable(name: str) -> str:
    """A file's name as it can be written to a file: true to the letter, but for what is no Unicode."""
    return name.encode(errors="backslashreplace").decode()


def nothing_to_teach(accuracy: str, guess: str) -> str:
    """What is said of a teacher that has learnt nothing, given its accuracy and that of who guesses."""
    return (
        f"the teacher is at {accuracy}, hardly better than guessing ({guess}), so that it has nothing to teach; train "
        "it longer (teacher.epochs) or at another learning rate (teacher.learning_rate)"
    )
