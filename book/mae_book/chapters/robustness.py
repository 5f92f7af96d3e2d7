"""Accuracy on a shifted set relative to that on validation images (chapter 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval


def relative_to_validation(records: Sequence[dict], chance: float) -> list[dict]:
    """Records of the probe with measures ``POOL/NAME/kept`` added: the share of validation's
    accuracy above chance that is left on a shifted set.

    Accuracy alone cannot tell a robust model from one that is good everywhere. Here 1 is no drop,
    and 0 is chance.

    Args:
        records: of `results/probe/DATA`. chance: accuracy of guessing, on every set.

    Raises:
        InputError: a record without a validation accuracy, or with one at chance or below, of which
            no share can be kept.
    """
    found = []
    for record in records:
        values = {name: measure["value"] for name, measure in record["measures"].items()}
        measures = dict(record["measures"])
        for name, value in values.items():
            pool, _, shifted = name.partition("/")
            if shifted == "validation":
                continue
            base = values.get(f"{pool}/validation")
            if base is None or base <= chance:
                raise InputError(
                    f"the result of {record['name']} has no {pool}/validation above chance"
                    f" ({chance:g}): nothing that a shifted set could keep"
                )
            measures[f"{name}/kept"] = Interval(
                (value - chance) / (base - chance),
                math.nan,
                math.nan,
                record["measures"][name]["n"],
            ).to_dict()
        found.append(record | {"measures": measures})
    return found
