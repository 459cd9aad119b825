"""What is wrong in a section is told with its key."""

import pytest

from search_spaces.naming import named
from trainables.errors import InputError


def test_what_a_section_finds_wrong_is_told_with_its_key():
    with pytest.raises(InputError, match=r"^teacher\.epochs is 0$") as found, named("teacher."):
        raise InputError("epochs is 0")
    assert str(found.value.__cause__) == "epochs is 0"


def test_other_errors_pass_as_they_are():
    with pytest.raises(ValueError, match=r"^a bug$"), named("teacher."):
        raise ValueError("a bug")
