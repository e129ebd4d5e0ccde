"""Errors a user can act on, each with the exit code that shell scripts branch on.

An error is one paragraph: what was found, what was expected, what to do next. Anything that is not an
``EcoError`` is a bug, exits with 1 and shows its traceback; the loss of another process exits with 1 too.
"""


class EcoError(Exception):
    """Base of all errors that are reported as one paragraph instead of a traceback."""

    exit_code = 1


class UsageError(EcoError):
    """The command line or a configuration asks for something impossible."""

    exit_code = 2


class DataError(EcoError):
    """Input data is missing, damaged or inconsistent: images, annotations, published weights."""

    exit_code = 3


class ArtifactError(EcoError):
    """An artifact of the store is damaged, of the wrong kind, or does not fit its parent."""

    exit_code = 4


class InterruptedRunError(EcoError):
    """A signal stopped the run after its state was saved; the same command continues it."""

    exit_code = 5
