"""What ends a command with one line instead of a traceback, and its exit status."""


class InputError(ValueError):
    """Bad input from a user. The message, one line, names what is wrong and the remedy."""

    status = 2


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite. The message names the step, the state that was kept and the
    remedy."""

    status = 3


class ProcessLost(RuntimeError):
    """Some of the processes never joined. The message names them and the remedy."""

    status = 1
