"""The ``mae`` command, a module a subcommand."""
