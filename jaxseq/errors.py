"""The one exception that the command line turns into a line of text instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: bad data, a bad option, a full disk.

    The message is one line that names the thing (file, field, shape) and the mend.
    `jaxseq` prints it and exits with status 2; from Python it is an ordinary exception.
    """
