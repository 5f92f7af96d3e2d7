"""``mae ledger`` and ``mae rerun``: the verdicts in the terminal, as JSON or CSV, and the checks
that keep results, code and statements together."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mae_lib.base.errors import InputError


@dataclass(frozen=True)
class Ledger:
    """Every claim of the paper, and what was found: its verdict on the embedded world and on
    photographs, computed from results/. With claims named, each test of theirs with its interval
    over seeds."""

    claims: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CLAIM")] = ()
    """ids such as T1r; default: all"""
    as_json: bool = False
    """print JSON: tests, intervals, the paper's numbers and ours"""
    as_csv: bool = False
    """print CSV: one row a test"""
    steps: int | None = None
    """of the second sweep, on fresh seeds: the verdicts at this length of training (9600, 28800,
    86400), as far as its seeds are there"""
    check: bool = False
    """fail if a result is older than the code that makes it, or if what the book states is no
    longer what the results say"""
    state: bool = False
    """write what the results say now as what the book states (results/stated.json), and print what
    that changes"""

    def run(self) -> int:
        from mae_book.verdicts import ledger

        if sum((self.as_json, self.as_csv, self.check, self.state)) > 1:
            raise InputError(
                "--as-json, --as-csv, --check and --state exclude each other: give one"
            )
        if self.state and self.claims:
            raise InputError("--state writes all claims: name none")
        if self.steps is not None:
            return self._print_rung()
        rows = ledger.entries(self.claims)
        if self.as_json:
            print(json.dumps([row.to_dict() for row in rows], indent=1))
        elif self.as_csv:
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
        elif self.check:
            return self._check(rows)
        elif self.state:
            before = ledger.drift(rows) if ledger.stated_file().is_file() else []
            ledger.state(rows)
            print(*before, f"{len(rows)} claims are stated as the results say now", sep="\n")
        else:
            self._print(rows)
        return 0

    def _print(self, rows: list) -> None:
        from mae_book.verdicts.ladder import RUNGS
        from mae_book.verdicts.ledger import command, folder
        from mae_lib.drawing.figures import Table

        def shown(decision: object) -> str:
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
        for rung in RUNGS.values():
            print(
                f"second sweep, {rung}: {rung.recorded()} of {rung.planned} runs are there (mae"
                f" ledger --steps {rung.steps})"
            )
        for row in rows if self.claims else ():
            for name, decision in (("embedded world", row.decision), ("photographs", row.real)):
                if decision is not None and decision.rows:
                    print(
                        f"\n{row.claim.id}, {name} ({folder(decision.claim)};"
                        f" {command(decision.claim)})"
                    )
                    print(
                        Table(
                            ["test", "found, 95 % interval over seeds", "alone"],
                            [
                                [t.said(), format(f, "+.4f"), outcome]
                                for t, f, outcome in decision.rows
                            ],
                        )
                    )

    def _print_rung(self) -> int:
        from mae_book.verdicts.ladder import rung, smallest_effect
        from mae_lib.drawing.figures import Table

        if any((self.as_json, self.as_csv, self.check, self.state)):
            raise InputError(
                "--steps prints a table: leave out --as-json, --as-csv, --check and --state"
            )
        chosen = rung(self.steps)
        decisions = chosen.decisions()
        if unknown := [identity for identity in self.claims if identity not in decisions]:
            raise InputError(
                f"{unknown[0]!r} is not tested at this length: choose of {', '.join(decisions)}"
            )
        wanted = {identity: decisions[identity] for identity in self.claims or decisions}
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
            for identity, d in (wanted.items() if self.claims else ())
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

    def _check(self, rows: list) -> int:
        from mae_book.verdicts.staleness import check

        try:
            check(rows)
        except InputError as faults:
            print(faults)
            return 1
        print(f"{len(rows)} claims: results, code and statements agree")
        return 0


@dataclass(frozen=True)
class Rerun:
    """Make cells of the sweep again and compare them, number for number, with what is recorded.
    Nothing in results/ is changed but the note that the present code makes them
    (results/code.json)."""

    cells: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CELL")] = ()
    """cells to make again, for instance probe/world/r75-u8-p8-s0"""
    changed: bool = False
    """one cell, the quickest, of every kind whose code has changed since one was last made again"""
    show: bool = False
    """print all cells, and whether each is recorded"""

    def run(self) -> int:
        from mae_book.sweep.cells import world_cells
        from mae_book.verdicts.results import results_directory
        from mae_book.verdicts.staleness import SOURCES, confirm, confirmed, fingerprint

        known = world_cells()
        if self.show:
            for name, cell in known.items():
                print("recorded" if cell.path(results_directory()).is_file() else "missing ", name)
            return 0
        wanted = list(self.cells)
        if self.changed:
            kinds = [
                kind
                for kind in SOURCES
                if confirmed().get(kind, {}).get("code") != fingerprint(kind)
            ]
            wanted += [found for kind in kinds if (found := _quickest(kind, known)) is not None]
        elif not wanted:
            raise InputError(
                "nothing to make again: name a cell (`mae rerun --show` lists them), or give"
                " --changed"
            )
        if unknown := [name for name in wanted if name not in known]:
            raise InputError(f"there is no cell {unknown[0]!r}: `mae rerun --show` lists all")
        differ = 0
        for name in wanted:
            agreement, again = made_again(known[name])
            print(f"{name}: {agreement}", flush=True)
            if not agreement.exact and (elsewhere := _elsewhere(known[name], again)):
                print(
                    f"  {elsewhere}: sums come in another order there, so digits need not agree",
                    flush=True,
                )
            if not agreement.outside:
                confirm(known[name].kind, name, agreement, again)
            differ += bool(agreement.outside)
        return 1 if differ else 0


def _quickest(kind: str, known: dict) -> str | None:
    """The recorded cell of a kind that took the least time and whose model is shipped."""
    from mae_book.verdicts.results import results_directory

    def seconds(name: str) -> float:
        return json.loads(known[name].path(results_directory()).read_text(encoding="utf-8"))[
            "seconds"
        ]

    recorded = [
        name
        for name, cell in known.items()
        if cell.kind == kind
        and cell.data in ("world", "")
        and cell.path(results_directory()).is_file()
    ]
    return min(recorded, key=seconds, default=None)


def _elsewhere(cell, again: dict) -> str:
    """On what a cell was recorded and made again, where that is not the same arithmetic."""
    from mae_book.verdicts.results import results_directory
    from mae_book.verdicts.staleness import same_arithmetic

    record = json.loads(cell.path(results_directory()).read_text(encoding="utf-8"))
    if same_arithmetic(record, again):
        return ""
    then, now = (
        ", ".join(
            str(one["hardware"][name])
            for name in ("gpu", "cpu", "instructions", "threads")
            if one["hardware"].get(name)
        )
        for one in (record, again)
    )
    return f"recorded on {then}, made again on {now} (processor, instruction set, threads)"


def made_again(cell) -> tuple:
    """(how far the cell's recorded numbers and those made now agree, the new record). In a folder
    of its own, which is removed; a training starts from nothing, an evaluation computes its
    features anew. InputError where nothing is recorded, or a command fails.
    """
    from mae_book.verdicts.results import results_directory
    from mae_book.verdicts.staleness import allowed, compare
    from mae_lib.training.store import cache_directory

    recorded = cell.path(results_directory())
    if not recorded.is_file():
        raise InputError(
            f"{cell.id} is not recorded: there is nothing to compare with; `make results` makes"
            " what is missing"
        )
    with tempfile.TemporaryDirectory(prefix="mae-rerun-") as folder:
        fresh = Path(folder)
        environment = os.environ | {"MAE_CACHE": str(fresh / "cache"), "OMP_NUM_THREADS": "1"}
        trains = cell.kind in ("pretraining", "detection")
        # weights may come from the cache; features and scenes may not
        if not trains and (cache_directory() / "checkpoints").is_dir():
            (fresh / "cache").mkdir()
            (fresh / "cache" / "checkpoints").symlink_to(
                (cache_directory() / "checkpoints").resolve()
            )
        *before, last = cell.commands(fresh / "results")
        for words in (*before, [*last, *(["--out", str(fresh / "models")] if trains else [])]):
            _call(words, environment)
        made = cell.path(fresh / "results")
        if not made.is_file():
            raise InputError(
                f"{cell.id} was made under another name than {made.name}: its config has changed;"
                f" delete {recorded.name} and make it anew"
            )
        again = json.loads(made.read_text(encoding="utf-8"))
        record = json.loads(recorded.read_text(encoding="utf-8"))
        beside = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(recorded.parent.glob("*.json"))
        ]
        return compare(record, again, allowed(cell.kind, record, again, beside)), again


def _call(words: Iterable[str], environment: dict[str, str]) -> None:
    """Runs one command with this interpreter; InputError with its last line if it fails."""
    program, *rest = words
    start = [sys.executable, "-m", "mae_lib"] if program == "mae" else [sys.executable]
    done = subprocess.run([*start, *rest], env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()] or [
            "no message"
        ]
        raise InputError(
            f"`{' '.join([program, *rest])}` ended with status {done.returncode}: {lines[-1]}"
        )
