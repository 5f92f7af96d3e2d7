"""The names of the sweep's eight pretrainings (§3), by their place in it, so that a test or a table
reads the same at every tier: ``r10`` … ``r90`` for the five masking ratios, ``small``, ``middle``
and ``large`` for the mask units. `mae_lib.training.tiers` says what each is.
"""

RATIO_RUNS = ("r10", "r25", "r50", "r75", "r90")
SIZE_RUNS = ("small", "middle", "large")
RUNS = RATIO_RUNS + SIZE_RUNS
