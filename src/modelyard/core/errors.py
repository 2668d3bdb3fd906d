"""The errors modelyard raises. Each says what happened, to what, and what to do next.

YardError
├── NotFound      (LookupError)      no such model, version, test, feature, ...
├── Forbidden     (PermissionError)  this person may not do this
├── Invalid       (ValueError)       the input is wrong; the message names the field
├── Conflict      (ValueError)       the input is right, but what stands there already forbids it
├── Unavailable   (OSError)          a folder, port, database or server cannot be used right now
├── Damaged       (OSError)          stored bytes are not what was written
└── MissingExtra  (ImportError)      an optional package is needed; the message has the install command
"""


class YardError(Exception):
    """The root of every error that modelyard raises on purpose."""

    status = 500
    exit_code = 1


class NotFound(YardError, LookupError):
    """What was asked for does not exist."""

    status = 404


class Forbidden(YardError, PermissionError):
    """The acting person may not do this. `told`: the refusal stands in the log already."""

    status = 403

    def __init__(self, message: str = "", *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


class Invalid(YardError, ValueError):
    """The input is wrong: a type, a value, a name."""

    status = 422
    exit_code = 2


class Unfit(Invalid):
    """A row is none that the model can answer, though its kinds are right: the sender's fault, and not the model's."""


class Conflict(YardError, ValueError):
    """The request is well formed but contradicts what is stored."""

    status = 409


class Unavailable(YardError, OSError):
    """Something outside the program cannot be used: a folder, a port, a database."""

    status = 503


class Damaged(YardError, OSError):
    """Stored bytes do not match their digest, or a file cannot be read as what it claims to be."""

    status = 500


class MissingExtra(YardError, ImportError):
    """An optional package is not installed."""

    status = 501


def nearest(name: str, known: list[str]) -> str:
    """The end of an error message about an unknown name: the nearest known ones.

    >>> nearest("canry", ["canary", "shadow"])
    'Did you mean canary? Known: canary, shadow.'
    """
    import difflib

    close = difflib.get_close_matches(name[:200], known, n=1)  # its time grows with what somebody sends
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Known: {', '.join(sorted(known))}." if known else "None exist yet."
