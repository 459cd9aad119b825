"""Files that the system lets nobody read or write: the user alone can mend that, as with other bad input."""

import errno

from trainables.errors import InputError

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def as_bad_input(error: Exception) -> Exception:
    """A refusal of the system in words that name the file and the mend; any other error as it is."""
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename is not None:
        mend = "change its permissions, or give another place"
        return InputError(f"{error.filename} cannot be read or written ({error.strerror}); {mend}")
    return error
