"""What has to be compiled, and where files go."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError

_HERE = Path(__file__).resolve().parent
_PAHO_HEADER = "MQTTAsync.h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The C programs, compiled into `folder`. `paho` is None where the library's header is missing."""

    folder: Path
    count: Path
    produce: Path
    syncs: Path
    paho: Path | None


def build(folder: Path) -> Tools:
    """Compile the C programs. Raises BenchError where there is no compiler."""
    if shutil.which("cc") is None:
        raise BenchError("cc is missing: the counting subscriber is written in C. apt install gcc libc6-dev")
    paho = _cc(folder, "peer_paho", "-lpaho-mqtt3a") if _has_header(_PAHO_HEADER) else None
    return Tools(
        folder=folder,
        count=_cc(folder, "count"),
        produce=_cc(folder, "produce"),
        syncs=_cc(folder, "syncs", "-shared", "-fPIC", "-ldl"),
        paho=paho,
    )


def _has_header(name: str) -> bool:
    probe = ["cc", "-E", "-x", "c", "-"]
    return (
        subprocess.run(probe, input=f"#include <{name}>\n", text=True, capture_output=True, check=False).returncode == 0
    )


def _cc(folder: Path, name: str, *options: str) -> Path:
    made = folder / name
    done = subprocess.run(
        ["cc", "-O2", "-Wall", "-o", made, _HERE / f"{name}.c", *options], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise BenchError(f"cc cannot compile {name}.c:\n{done.stderr}")
    return made


def on_disk(folder: Path) -> bool:
    """Tell whether files in the folder reach a block device: in memory, nothing that is written costs anything."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    holding = [(len(where), kind) for where, kind in mounts if folder.is_relative_to(where)]
    return bool(holding) and max(holding)[1] not in {"tmpfs", "ramfs"}
