"""The book's subcommands of ``mae``: ledger and rerun."""
