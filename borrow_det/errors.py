"""The one exception that means: the person's input is at fault, not the program."""


class InputError(ValueError):
    """A file, a field or a record is wrong; the message names it and what to do.

    Command-line entry points print it as one line and exit with status 2; every other
    exception is a bug and keeps its traceback.
    """
