"""What the system forbids is bad input; other errors of files are not."""

import errno

from orchestrator.forbidden import as_bad_input
from trainables.errors import InputError


def test_a_file_that_may_not_be_written_is_named_with_the_mend() -> None:
    told = as_bad_input(PermissionError(errno.EACCES, "Permission denied", "runs/digits"))
    assert isinstance(told, InputError)
    assert str(told) == (
        "runs/digits cannot be read or written (Permission denied); change its permissions, or give another place"
    )


def test_other_errors_stay_what_they_are() -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device", "x"), PermissionError(errno.EACCES, "no file")):
        assert as_bad_input(error) is error
