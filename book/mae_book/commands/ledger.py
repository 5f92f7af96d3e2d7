"""``mae ledger``: the verdicts in the terminal, as JSON or CSV, and the check that keeps results,
code and statements together."""

from __future__ import annotations

import csv
import json
import sys

from mae_book.commands import prose
from mae_book.commands.options import Ledger
from mae_book.verdicts import ledger, seals
from mae_book.verdicts.ladder import RUNGS, rung, smallest_effect
from mae_lib.base.errors import InputError
from mae_lib.base.tables import Table


def run(options: Ledger) -> int:
    """``mae ledger``: the exit status."""
    chosen = (options.as_json, options.as_csv, options.check, options.state, options.seal)
    if sum(chosen) > 1:
        raise InputError(
            "--as-json, --as-csv, --check, --state and --seal exclude each other: give one"
        )
    if (options.state or options.seal) and options.claims:
        raise InputError("--state and --seal write all that there is: name no claim")
    if options.steps is not None:
        return _print_rung(options)
    if options.seal:
        changed = [*str(seals.seal()).splitlines(), *prose.seal()]
        print(*changed, f"{len(seals.sealed())} files are sealed", sep="\n")
        return 0
    rows = ledger.entries(options.claims)
    if options.as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
    elif options.as_csv:
        flat = ledger.as_rows(rows)
        writer = csv.DictWriter(
            sys.stdout,
            [
                "id",
                "where",
                "claim",
                "data",
                "verdict",
                "test",
                "value",
                "low",
                "high",
                "n",
                "outcome",
                "results",
                "command",
            ],
        )
        writer.writeheader()
        writer.writerows(flat)
    elif options.check:
        return _check(rows)
    elif options.state:
        before = ledger.drift(rows) if ledger.stated_file().is_file() else []
        ledger.state(rows)
        print(*before, f"{len(rows)} claims are stated as the results say now", sep="\n")
    else:
        _print(options, rows)
    return 0


def _print(options: Ledger, rows: list) -> None:
    def shown(decision: ledger.Decision | None) -> str:
        return "–" if decision is None else decision.verdict

    print(
        Table(
            ["claim", "where", "verdict", "photographs", "what is claimed"],
            [
                [r.claim.id, r.claim.where, shown(r.decision), shown(r.real), r.claim.statement]
                for r in rows
            ],
        )
    )
    print()
    for one in RUNGS.values():
        print(
            f"second sweep, {one}: {one.recorded()} of {one.planned} runs are there (mae"
            f" ledger --steps {one.steps})"
        )
    for row in rows if options.claims else ():
        for name, decision in (("embedded world", row.decision), ("photographs", row.real)):
            if decision is not None and decision.rows:
                print(
                    f"\n{row.claim.id}, {name} ({ledger.folder(decision.claim)};"
                    f" {ledger.command(decision.claim)})"
                )
                print(
                    Table(
                        ["test", "found, 95 % interval over seeds", "alone"],
                        [[t.said(), format(f, "+.4f"), outcome] for t, f, outcome in decision.rows],
                    )
                )


def _print_rung(options: Ledger) -> int:
    if any((options.as_json, options.as_csv, options.check, options.state, options.seal)):
        raise InputError(
            "--steps prints a table: leave out --as-json, --as-csv, --check, --state and --seal"
        )
    chosen = rung(options.steps)
    decisions = chosen.decisions()
    if unknown := [identity for identity in options.claims if identity not in decisions]:
        raise InputError(
            f"{unknown[0]!r} is not tested at this length: choose of {', '.join(decisions)}"
        )
    wanted = {identity: decisions[identity] for identity in options.claims or decisions}
    print(f"{chosen}: {chosen.recorded()} of {chosen.planned} runs are there")
    print(
        Table(
            ["claim", "verdict", "what is claimed"],
            [[identity, d.verdict, d.claim.statement] for identity, d in wanted.items()],
        )
    )
    rows = [
        [
            identity,
            t.said(),
            str(f.n),
            format(f, "+.4f"),
            format(smallest_effect(f), ".4f"),
            outcome,
        ]
        for identity, d in (wanted.items() if options.claims else ())
        for t, f, outcome in d.rows
    ]
    if rows:
        print(
            Table(
                [
                    "claim",
                    "test",
                    "seeds",
                    "found, 95 % interval",
                    "smallest effect that could be told",
                    "alone",
                ],
                rows,
            )
        )
    return 0


def _check(rows: list) -> int:
    # which asks PyTorch for the shipped weights
    from mae_book.verdicts.staleness import check

    said = prose.faults()
    try:
        check(rows)
    except InputError as faults:
        print(*said, faults, sep="\n")
        return 1
    if said:
        print(*said, sep="\n")
        return 1
    print(f"{len(rows)} claims: results, their seal, code and statements agree")
    return 0
