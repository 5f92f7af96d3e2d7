"""Many runs of a notebook: `mae sweep`, its report, and papermill's engine for chapters."""

from contextlib import suppress

# papermill loads the engine of this folder itself, so it comes before any module of it.
with suppress(ModuleNotFoundError):
    import papermill.engines  # noqa: F401
