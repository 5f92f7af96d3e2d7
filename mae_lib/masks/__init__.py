"""Masks as data (§2.2, §3.6): which patches are hidden, by units, by designs that follow a
structure, with margins that no loss counts."""
