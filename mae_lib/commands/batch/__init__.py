"""Many runs of a notebook: `mae sweep`, its report, and papermill's engine for chapters."""
