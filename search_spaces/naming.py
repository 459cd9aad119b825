"""What a section finds wrong is told with the section's key."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import InputError


@contextmanager
def named(prefix: str) -> Iterator[None]:
    """Put a section's key, such as `cascade.`, before what an `InputError` of the block says.

    Raises:
        InputError: with the prefix.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}{error}") from error
