"""`roamd service`: the systemd unit for an installation by pip or pipx. The Debian package brings its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from agent.errors import UnavailableError

_UNIT = Path("etc/systemd/system/roamd.service")
_USER = Path("etc/sysusers.d/roamd.conf")
_PACKAGED = ("usr/lib/systemd/system/roamd.service", "lib/systemd/system/roamd.service")
_USER_LINE = 'u roamd - "roamd, the telemetry agent" /var/lib/roamd\n'
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  what the unit's walls hide
_EXEC = "ExecStart=/usr/bin/roamd run\n"


def install(root: Path | None) -> int:
    """Write the unit, make the user, start the service. With `root`, only write, below that folder."""
    top = _top(root)
    text = _unit(_command())
    _write(top / _USER, _USER_LINE)
    _write(top / _UNIT, text)
    if root is None:
        _run("systemd-sysusers", str(top / _USER))
        _run("systemctl", "daemon-reload")
        _run("systemctl", "enable", "--now", "roamd.service")
        print("roamd runs as a service: systemctl status roamd; its settings: /etc/roamd/conf.d/*.toml")
    return 0


def uninstall(root: Path | None) -> int:
    """Stop the service and take away what `install` wrote; settings, outbox and user stay."""
    top = _top(root)
    if not (top / _UNIT).exists():
        raise UnavailableError(f"{top / _UNIT} is not there: nothing to uninstall")
    if root is None:
        _run("systemctl", "disable", "--now", "roamd.service")
    for file in (_UNIT, _USER):
        (top / file).unlink(missing_ok=True)
        print(f"removed {top / file}")
    if root is None:
        _run("systemctl", "daemon-reload")
        print("left: /etc/roamd, /var/lib/roamd (the outbox) and the user roamd; rm -r /etc/roamd /var/lib/roamd")
    return 0


def _top(root: Path | None) -> Path:
    top = root or Path("/")
    for packaged in _PACKAGED:
        if (top / packaged).exists():
            raise UnavailableError(f"{top / packaged} is there: the Debian package brings the service; use systemctl")
    if root is None and os.geteuid() != 0:
        raise UnavailableError("a system service needs root: sudo roamd service ...")
    return top


def _command() -> Path:
    """Return the command roamd of this installation. Raises UnavailableError where the service could not run it."""
    command = Path(sys.prefix, "bin/roamd")
    if not os.access(command, os.X_OK):
        raise UnavailableError(f"{command} is not there: install roamd by pip or pipx first")
    for part in (command, Path(sys.base_prefix), Path(__file__).resolve()):
        hidden = next((folder for folder in _HIDDEN if part.is_relative_to(folder)), None)
        if hidden is not None:
            raise UnavailableError(
                f"{part} is below {hidden}, which the service cannot see; install it for all users:"
                " PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install roamd"
            )
    return command


def _unit(command: Path) -> str:
    here = Path(__file__).parent / "roamd.service"  # of a wheel
    file = here if here.exists() else Path(__file__).parents[2] / "systemd/roamd.service"  # of a checkout
    text = file.read_text(encoding="utf-8")
    assert _EXEC in text
    # systemd.service(5): quotes for spaces, and a per cent sign is doubled.
    quoted = str(command).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text.replace(_EXEC, f'ExecStart="{quoted}" run\n')


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    print(f"wrote {file}")


def _run(*argv: str) -> None:
    print(" ".join(argv), flush=True)
    program = shutil.which(argv[0])
    if program is None:
        raise UnavailableError(f"{argv[0]} is not there: a service needs systemd")
    if code := subprocess.run([program, *argv[1:]], check=False).returncode:  # noqa: S603  no words of anybody else
        raise UnavailableError(f"{' '.join(argv)} failed with {code}")
