"""The one exception that means "the input is wrong", as against a fault of the library."""


class InputError(ValueError):
    """Bad input from a user. The message, one line, names the thing that is wrong and the remedy;
    the CLI prints it alone and exits 2."""
