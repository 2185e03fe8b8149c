"""The reason why a checkpoint could not be written, in the system's words."""

import errno
import os

# The system's messages for a place that cannot be written. The library that writes
# arrays repeats them in its own errors.
_UNWRITABLE = tuple(
    os.strerror(code)
    for code in (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
        *(errno.EACCES, errno.EPERM, errno.EIO),
    )
)


def unwritable(error: BaseException | None) -> str | None:
    """Returns the system's reason not to write; None for errors of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        for words in _UNWRITABLE:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None
