"""Standard output and error that take any text and outlive their reader.

Names of files and classes may hold characters that the console's encoding lacks, and
bytes that are not UTF-8 (surrogates in Python's strings). A reader such as head may
close the pipe, and a terminal may go away while a run trains for days. Neither ends a
command: it continues without output, and its exit status stays its own.
"""

import codecs
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Errors of a write to a pipe without a reader, and to a terminal that has gone.
_READER_IS_GONE = (errno.EPIPE, errno.EIO)
# Error handler of str.encode: `\xff` for a byte that is not UTF-8, `\u732b` for others.
ESCAPE = "borrow_det.escape"


def prepare() -> None:
    """Prepares `sys.stdout` and `sys.stderr` of a command; later calls do nothing.

    A stream that has replaced the process's own, such as a test's, is kept, and takes
    any text.
    """
    for name, original in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
        stream = getattr(sys, name)
        if stream is None:  # The descriptor was closed: `>&-`.
            sink = open(os.devnull, "w", encoding="utf-8", errors=ESCAPE)  # noqa: SIM115
            setattr(sys, name, sink)
        elif stream is original and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _lasting(stream))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


def escaped(text: str) -> str:
    """Returns a text that can be written in UTF-8, with surrogates escaped."""
    return text.encode("utf-8", ESCAPE).decode()


def _lasting(stream: io.TextIOWrapper) -> TextIO:
    """Returns a stream to the same descriptor whose writes do not fail."""
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO):  # A console of Windows.
        return stream
    stream.flush()
    lasting = _LastingFile(raw.fileno(), "wb", closefd=False)
    buffered = raw is not stream.buffer  # False under `python -u`.
    return io.TextIOWrapper(
        io.BufferedWriter(lasting) if buffered else cast(BinaryIO, lasting),
        encoding=stream.encoding,
        errors=ESCAPE,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LastingFile(io.FileIO):
    """A file that drops its output once its reader has gone."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _READER_IS_GONE:
                raise
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self.fileno())  # Libraries in C++ write there, too.
            os.close(sink)
            return memoryview(data).nbytes


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Escapes the characters that an encoding lacks; see codecs.register_error."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_escaped, text)), error.end


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte of a file name (PEP 383).
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ESCAPE, _escape)
