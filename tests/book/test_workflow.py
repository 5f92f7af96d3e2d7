"""The workflow: its jobs and their order, what a job leaves behind when it fails or is killed, the
report, and, where Snakemake is installed, what it would run. `tests/mae_book/sweep/test_cells.py`
checks the cells themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from mae_book.sweep.cells import world_cells
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow"))
import plan  # noqa: E402
import summary  # noqa: E402

JOB = [
    sys.executable,
    str(ROOT / "workflow" / "job.py"),
    "--status",
    "s/j.json",
    "--log",
    "l/j.log",
    "--made",
    "out.json",
]


@pytest.fixture
def root(monkeypatch):
    """In the repository's root, as the Snakefile works."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def jobs() -> list:
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        return plan.jobs({})
    finally:
        os.chdir(before)


# -- the list of jobs ------------------------------------------------------------------------------


def test_every_cell_is_made_by_one_job(jobs):
    cells = world_cells()
    ids = [
        name
        for job in jobs
        if job.group != "chapters"
        for name in (job.id, *(name for name, _ in job.also))
    ]
    assert len(set(ids)) == len(ids) and set(ids) == cells.keys()
    assert all(
        cells[name].path(Path("results")) == Path(file)
        and cells[name].kind in ("theory", "identify")
        for job in jobs
        for name, file in job.also
    )
    for name in ("rule", "key", "output", "target", "log", "status"):
        assert len({getattr(job, name) for job in jobs}) == len(jobs), f"two jobs have one {name}"
    for job in jobs:
        if job.group != "chapters":
            assert (
                job.output == str(cells[job.id].path(Path("results")))
                and job.group == cells[job.id].kind
            )
            assert [tuple(shlex.split(command)) for command in job.commands] == list(
                cells[job.id].commands()
            )


def test_what_a_job_needs_is_made_by_one_before_it(jobs):
    made = set()
    for job in jobs:
        assert set(job.needs) <= made, f"{job.id} comes before what it needs"
        made |= set(job.targets)


def test_a_job_s_shell_line_gives_back_its_commands(jobs):
    for job in jobs:
        assert tuple(shlex.split(job.shell)[-len(job.commands) :]) == job.commands


def test_chapters_need_what_they_read_and_are_kept_whole(jobs):
    chapters = {job.id: job for job in jobs if job.group == "chapters"}
    assert len(chapters) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    needed = {
        name: {job.group for job in jobs if set(job.targets) <= set(chapter.needs)}
        for name, chapter in chapters.items()
    }
    assert (
        needed["chapters/00"] == set()
        and "probe" in needed["chapters/08"]
        and {"latents", "tree_world", "pretraining"} <= needed["chapters/11"]
    )
    for chapter in chapters.values():
        run, page = map(shlex.split, chapter.commands)
        assert (ROOT / run[3]).is_file() and run[4] == page[-1] == chapter.output


def test_each_job_s_files_are_its_pattern_with_its_key(jobs):
    """One rule stands for all jobs of a pattern: the wildcard has to give each its own target, and
    no other pattern may give it too."""
    found = plan.patterns(jobs)
    single = [job for job in jobs if not job.also]
    assert sum(map(len, found.values())) == len(single) and len(found) < 20
    for job in single:
        assert job.patterns[0].replace("{cell}", job.key) == job.target
        assert job.key in found[job.group, job.patterns] and job.log == f"runs/logs/{job.key}.log"
    assert len({job.key for job in jobs}) == len(jobs)


def test_ids_choose_jobs_and_bring_what_they_need(jobs):
    some = plan.wanted(jobs, {"only": ["probe/world/r75-u8-p8-s*", "theory/small-mask-s0"]})
    assert {job.group for job in some} == {"probe", "theory"}
    assert all(job.id.startswith("probe/world/r75-u8-p8-s") for job in some if job.group == "probe")
    closed = plan.with_needs(jobs, some)
    made = {target for job in closed for target in job.targets}
    assert {job.group for job in closed} == {"probe", "theory", "pretraining"}
    assert all(set(job.needs) <= made for job in closed) and set(some) <= set(closed)
    assert plan.wanted(jobs, {}) == list(jobs) == plan.with_needs(jobs, jobs)
    with pytest.raises(InputError, match="only=prob/world/r75-u8-p8-s0 names no .*did you mean pr"):
        plan.wanted(jobs, {"only": ["prob/world/r75-u8-p8-s0"]})


def test_every_job_is_given_a_time_at_every_tier(jobs, root):
    """More images, more time: a longer training is expected to take as many times longer, and a
    tier by its arithmetic."""
    time = {job.id: job.seconds for job in jobs}
    assert all(seconds > 0 for seconds in time.values())
    short, long = (
        time[f"pretraining/world{end}/r75-u8-p8-s3"] for end in ("-9600x16", "-28800x16")
    )
    assert 2 < long / short < 4
    assert 1 < sum(plan._recorded("")) / len(plan._recorded("")) < 3600  # of a kind without records
    smoke = {job.id: job.seconds for job in plan.jobs({"tier": "smoke", "seeds": [0]})}
    gpu = {job.id: job.seconds for job in plan.jobs({"tier": "gpu", "seeds": [0]})}
    name = "pretraining/world/r75-u8-p8-s0"
    assert 0 < smoke[name] < time[name] < gpu[name]
    assert "about" in summary.expected(plan.jobs({"tier": "gpu", "seeds": [0]}))


def test_times_and_results_follow_the_tier(root):
    laptop, smoke = (
        next(job for job in plan.jobs(config) if job.id == "pretraining/world/r90-u8-p8-s0")
        for config in ({}, {"tier": "smoke", "seeds": [0]})
    )
    records = [
        json.loads(path.read_text())
        for path in (results_directory() / "pretraining").rglob("*.json")
    ]
    assert laptop.minutes * 60 > 3 * max(
        record["seconds"] for record in records
    ) and laptop.output.startswith("results/")
    assert (
        smoke.output.startswith("runs/smoke/results/pretraining/world/")
        and smoke.seconds < laptop.seconds
    )


@pytest.mark.parametrize(
    "config, said",
    [
        ({"tear": "smoke"}, "tear=… is unknown: did you mean tier? choose of tier, seeds"),
        ({"seeds": [-1]}, "must be a list of whole numbers"),
        ({"only": "probe"}, "must be a list of ids"),
        ({"only": []}, "must be a list of ids"),
        ({"results": ""}, "must be a folder"),
        ({"tier": "desk"}, "unknown tier 'desk'"),
        ({"tier": 3}, "tier=3 must be a word"),
        ({"seeds": ["0", "one"]}, "must be a list of whole numbers"),
        ({"seeds": 3}, "must be a list of whole numbers"),
        ({"seeds": []}, "must be a list of whole numbers"),
        ({"in20": "nowhere"}, "nowhere"),
        ({"pacs": "nowhere"}, "give in20 too"),
        ({"tier": "smoke", "in20": "nowhere"}, "belongs to the laptop tier"),
        ({"results": "README.md"}, "cannot write in README.md"),
    ],
)
def test_a_wrong_config_is_one_clear_line_before_anything_starts(root, config, said):
    with pytest.raises(InputError) as caught:
        plan.jobs(config)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# -- one job ---------------------------------------------------------------------------------------


def run(folder: Path, *commands: str, extra: tuple[str, ...] = ()) -> tuple[int, dict, str]:
    done = subprocess.run([*JOB, *extra, *commands], cwd=folder)
    return (
        done.returncode,
        json.loads((folder / "s/j.json").read_text()),
        (folder / "l/j.log").read_text(),
    )


def python(code: str) -> str:
    return shlex.join(["python", "-c", code])


def test_a_job_ends_with_the_status_of_the_first_command_that_fails(tmp_path):
    code, note, log = run(
        tmp_path,
        python("print('one')"),
        python("import sys; sys.exit('two fails')"),
        python("print('three')"),
        extra=("--stamp", "t/done"),
    )
    assert code == note["exit"] == 1 and "two fails" in note["command"]
    assert (
        "one\n" in log
        and "two fails" in log
        and "\nthree" not in log
        and not (tmp_path / "t/done").exists()
    )
    code, note, _ = run(tmp_path, python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert code == note["exit"] == 137
    code, note, log = run(tmp_path, "no-such-program --here")
    assert code == note["exit"] == 127 and "no-such-program" in log


def test_a_job_that_ends_well_says_what_it_took(tmp_path):
    code, note, log = run(
        tmp_path,
        python("import os; print('threads', os.environ['OMP_NUM_THREADS'])"),
        "mae --help",
        extra=("--stamp", "t/done"),
    )
    assert code == note["exit"] == 0 and (tmp_path / "t/done").exists()
    assert note["minutes"] >= 0 and note["memory_mb"] > 10 and note["file"] == "out.json"
    assert "threads 1\n" in log and "pretrain" in log  # "mae" is this interpreter's


@pytest.mark.parametrize("number, left", [(signal.SIGKILL, None), (signal.SIGTERM, 143)])
def test_a_job_that_is_killed_is_not_taken_for_finished(tmp_path, number, left):
    """SIGTERM, as of a batch system, reaches the command; after SIGKILL there is no exit status."""
    code = "import time; open('pid', 'w').write(str(__import__('os').getpid())); time.sleep(60)"
    process = subprocess.Popen([*JOB, python(code)], cwd=tmp_path)
    for _ in range(300):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    child = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    process.wait(30)
    assert json.loads((tmp_path / "s/j.json").read_text())["exit"] == left
    if number == signal.SIGKILL:
        os.kill(child, signal.SIGKILL)
    else:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


# -- the report ------------------------------------------------------------------------------------


def test_the_report_says_what_became_of_each_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def job(name: str, *needs: str, stamp: str = "") -> plan.Job:
        output, place = f"results/{name}.json", Path("results")
        return plan.Job(f"kind/{name}", "kind", needs, output, ("true",), stamp, 1.0, 1, place)

    def note(job: plan.Job, code: int | None, file: str | None = None) -> None:
        job.status.parent.mkdir(parents=True, exist_ok=True)
        job.status.write_text(
            json.dumps({"file": file or job.output, "exit": code, "minutes": 1.5, "log": job.log})
        )

    done, found, failed, stopped = (job(name) for name in ("done", "found", "failed", "stopped"))
    waits, idle, other = job("waits", failed.output), job("idle"), job("other")
    further, named_later = job("further", waits.output), job("pending", stamp="runs/stamps/pending")
    for file in (done.output, found.output, named_later.stamp):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    for each, code in ((done, 0), (failed, 3), (stopped, None), (named_later, 0)):
        note(each, code)
    note(other, 5, "results/of-another-config.json")
    line = summary.report([done, found, failed, stopped, waits, idle, further, other, named_later])
    rows = [row.split("\t") for row in Path("runs/report.tsv").read_text().splitlines()[1:]]
    assert {row[0].removeprefix("kind/"): row[2] for row in rows} == {
        "done": "done",
        "found": "found",
        "failed": "failed (3)",
        "stopped": "stopped",
        "waits": "not run: needs results/failed.json",
        "idle": "not run",
        "further": "not run: needs results/waits.json",
        "other": "not run",
        "pending": "done",
    }
    assert (
        rows[0][3] == "1.5"
        and "9 cells and 0 chapters: 2 done, 1 found, 1 failed, 1 stopped, 4 not run" in line
    )
    page = Path("runs/report.html").read_text()
    assert (
        '<a href="../results/done.json">' in page
        and 'href="../results/failed.json"' not in page
        and "failed (3)" in page
    )
    sums = BeautifulSoup(page, "html.parser").select("#kinds tbody tr")
    assert [[cell.get_text() for cell in row.select("td")] for row in sums] == [
        [name, "2", "1", "1", "1", "4", "6"] for name in ("kind", "all")
    ]
    counted = summary.expected([done, found, failed, stopped, waits])
    assert counted.startswith("5 cells and 0 chapters: 2 found, 3 to make by 3 jobs: about")


def test_the_page_states_the_hours_that_the_records_add_up_to():
    """book/scaling.md: what the sweep's own cells took, on one core."""
    seconds = 0.0
    for cell in world_cells().values():
        if (
            cell.data in ("world", "designs", "")
            and cell.kind not in ("theory", "identify")
            and cell.path(results_directory()).is_file()
        ):
            record = json.loads(cell.path(results_directory()).read_text())
            seconds += record["seconds"] + 60 * record.get("minutes", 0)
    text = (ROOT / "book" / "scaling.md").read_text()
    assert f"add up to {seconds / 3600:.0f} hours of one core" in text


# -- what Snakemake would do -----------------------------------------------------------------------

with_snakemake = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None,
    reason="Snakemake (the extra `batch`) is not installed",
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project with results of its own, all of one time, as a clone has them, but for
    pretrainings, which are younger than what was made of them."""
    folder = tmp_path_factory.mktemp("clone with spaces") / "main"
    folder.mkdir()
    for name in ("mae_lib", "checkpoints", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copytree(ROOT / "results", folder / "results")
    for path in (folder / "results").rglob("*.json"):
        os.utime(path, (1e9, 1e9 + 1e6 * ("pretraining" in path.parts)))
    return folder


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"MAE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def rules(done: subprocess.CompletedProcess) -> dict[str, int]:
    """Rule → how many jobs of it a dry run counts."""
    text = (done.stdout + done.stderr).partition("Job stats:")[2].partition("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}


@with_snakemake
def test_what_is_recorded_is_not_made_again_and_what_is_missing_is(clone):
    recorded = ["shape_bias/world/r75-u8-p8-s[01]", "tree_world/random-r50-s[01]"]
    words = ("--dry-run", "cells", "--config", f"only={json.dumps(recorded)}")
    done = snakemake(clone, *words)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr, done.stderr
    gone = [
        next((clone / "results" / place).glob(name))
        for place, name in (
            ("shape_bias/world", "r75-u8-p8-s1-*"),
            ("tree_world", "random-r50-s0-*"),
        )
    ]
    for path in gone:
        path.unlink()
    done = snakemake(clone, *words)
    assert done.returncode == 0
    assert rules(done) == {"shape_bias_one": 1, "tree_world_one": 1, "cells": 1, "total": 3}
    assert "2 to make by 2 jobs: about" in done.stderr


@with_snakemake
def test_a_dry_run_of_all_cells_fits_a_screen(clone):
    done = snakemake(clone, "--dry-run", "cells")
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert len(said) < 50 and rules(done)["total"] > 50


@with_snakemake
def test_a_wrong_config_stops_it_at_once(clone):
    done = snakemake(clone, "--dry-run", "--config", "tear=smoke")
    assert (
        done.returncode != 0
        and "tear=… is unknown: did you mean tier?" in done.stdout + done.stderr
        and "Traceback" not in done.stderr
    )


@with_snakemake
def test_a_cell_is_made_with_what_it_needs_and_only_once(clone):
    only = "only=[separability/world/r50-u8-p8-s0]"
    words = ("cells", "--config", "tier=smoke", "seeds=[0]", only)
    done = snakemake(clone, *words)
    assert done.returncode == 0, done.stderr
    made = {path.parent.parent.name for path in (clone / "runs/smoke/results").rglob("r50-*.json")}
    assert made == {"pretraining", "separability"}
    rows = [row.split("\t") for row in (clone / "runs/report.tsv").read_text().splitlines()]
    assert {row[0] for row in rows if row[2] == "done"} == {
        "pretraining/world/r50-u8-p8-s0",
        "separability/world/r50-u8-p8-s0",
    }
    again = snakemake(clone, "--dry-run", *words)
    assert "Nothing to be done" in again.stdout + again.stderr


@with_snakemake
@pytest.mark.timeout(900)
def test_a_workflow_that_was_killed_goes_on_without_making_anything_twice(clone):
    only = "only=[separability/world/r10-u8-p8-s0,separability/world/r25-u8-p8-s0]"
    words = ("cells", "--config", "tier=smoke", "seeds=[0]", only)
    results = clone / "runs/smoke/results"
    environment = os.environ | {"MAE_CACHE": str(clone / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
    killed = subprocess.Popen(
        command,
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def made() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for run in ("r10", "r25")
            for path in results.rglob(f"{run}-*.json")
        }

    while len(made()) < 2:
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = made()
    done = snakemake(clone, *words)
    assert done.returncode == 0, done.stderr
    after = made()
    assert len(before) < len(after) == 4 and before.items() <= after.items()


@with_snakemake
@pytest.mark.timeout(900)
def test_a_chapter_that_fails_takes_no_other_with_it(clone):
    own = clone.with_name("of two chapters")
    shutil.copytree(
        clone,
        own,
        symlinks=True,
        ignore=shutil.ignore_patterns("notebooks", "runs", ".snakemake", "cache"),
    )
    (own / "notebooks").mkdir()
    cells = nbformat.v4.new_code_cell
    for name, code in {
        "98_fails": "raise RuntimeError('no such thing')",
        "99_works": "print(tier)",
    }.items():
        first = cells('tier: str = "laptop"  # size', metadata={"tags": ["parameters"]})
        check = cells(
            "from mae_lib.base.parameters import check_parameters\ncheck_parameters(globals(),"
            " tier=str)"
        )
        notebook = nbformat.v4.new_notebook(cells=[first, check, cells(code)])
        notebook.metadata["kernelspec"] = {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
        nbformat.write(notebook, own / "notebooks" / f"{name}.ipynb")
    done = snakemake(own, "chapters", "--config", "results=runs/none")
    assert (own / "runs/report.tsv").is_file(), done.stderr
    rows = {
        row.split("\t")[0]: row.split("\t")
        for row in (own / "runs/report.tsv").read_text().splitlines()
    }
    assert (
        done.returncode != 0
        and rows["chapters/98"][2].startswith("failed")
        and rows["chapters/99"][2] == "done"
    ), (rows, done.stderr)
    assert "no such thing" in (own / "runs/logs/chapters/98.log").read_text()
    assert (
        (own / "runs/chapters/99.ipynb").is_file()
        and "laptop" in (own / "runs/chapters/99.html").read_text()
        and not (own / "runs/chapters/98.ipynb").exists()
        and (own / "runs/chapters/98.failed.ipynb").is_file()
    )
