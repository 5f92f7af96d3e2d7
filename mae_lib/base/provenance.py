"""Where a number comes from: the code, libraries and hardware that a checkpoint or a result records
beside its config."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

LIBRARIES = ("torch", "timm", "numpy", "safetensors")


def _commit() -> str | None:
    """The Git commit this package's code stands at, with ``+changes`` if ``mae_lib`` differs from
    it; None outside a repository."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


# Read when the code is loaded: by the time a long run ends, the files on disk may be others.
COMMIT = _commit()


def hardware(device: torch.device | str = "cpu") -> dict:
    """Processor or GPU, PyTorch's instruction set on the processor (``AVX2``, …), and how many
    threads it may use."""
    device = torch.device(device)
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    processor = {
        "cpu": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }
    return {
        "device": device.type,
        "gpu": accelerator,
        **processor,
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Python's and the libraries' versions."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in LIBRARIES
    }


def provenance(device: torch.device | str = "cpu") -> dict:
    """Commit, hardware, versions, the command line (without folders) and the time, in UTC."""
    program = Path(sys.argv[0] or "python")
    module = ["python", "-m", program.parent.name]
    command = [*(module if program.name == "__main__.py" else [program.name]), *sys.argv[1:]]
    return {
        "commit": COMMIT,
        "hardware": hardware(device),
        "versions": versions(),
        "command": shlex.join(_without_folders(word) for word in command),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _without_folders(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if os.path.isabs(value) else word


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
