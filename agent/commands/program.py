"""Runs a program for a command: without a shell, for a limited time, and with nothing of this process in it."""

import asyncio
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.arguments import is_plain, text
from agent.commands.process import Process, start
from agent.model import Outcome, Status

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are sought that are named without a folder, whatever the agent's own PATH is."""

_REASON = 200  # characters of the last line of standard error
_LAST = 5.0
"""Seconds that a killed program may take to go."""


class Stdin(StrEnum):
    """What a program reads from its standard input."""

    NOTHING = ""
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is run for a command. `{name}` as a whole member of `argv` stands for the argument of that name.

    `timeout` and `kill_after` are in seconds. Of standard output and standard error each, the first `max_output` bytes
    are kept.
    """

    argv: tuple[str, ...]
    timeout: float = 30.0
    kill_after: float = 5.0
    max_output: int = 16 * 1024
    stdin: Stdin = Stdin.JSON
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    cwd: str = "/"


def placeholder(part: str) -> str | None:
    """Return the name of the argument that a member of `argv` stands for."""
    return part[1:-1] if part.startswith("{") and part.endswith("}") else None


async def run(program: Program, args: Mapping[str, object], *, command_id: str, name: str) -> Outcome:
    """Run a program until it ends, or until its time is over.

    Then its process group gets SIGTERM, and `kill_after` seconds later SIGKILL. If the task is cancelled, it goes the
    same way; a second cancellation kills at once. What a program that ended leaves running has `kill_after` to close
    its output; then it is killed.
    """
    environment = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        **program.environment,
        "ROAMD_COMMAND": name,
        "ROAMD_COMMAND_ID": command_id,
    }
    try:
        process = start(
            [_filled(part, args) for part in program.argv],
            stdin=text(args).encode() + b"\n" if program.stdin is Stdin.JSON else b"",
            cwd=program.cwd,
            environment=environment,
            max_output=program.max_output,
        )
    except OSError as exc:
        return _failed(_why_not(program, exc))
    except ValueError as exc:  # NUL, or half of a surrogate pair
        return _failed(f"cannot run {program.argv[0]}: {exc}")
    try:
        in_time = await process.ended(within=program.timeout)
        if not in_time:
            process.signal(signal.SIGTERM)
        await process.silent(within=program.kill_after)
    except asyncio.CancelledError:
        process.signal(signal.SIGTERM)
        await process.silent(within=program.kill_after)
        raise
    finally:
        process.signal(signal.SIGKILL)
        try:
            await process.gone(within=_LAST)
        finally:
            process.close()
    return _outcome(process, program, in_time=in_time)


def _filled(part: str, args: Mapping[str, object]) -> str:
    name = placeholder(part)
    return part if name is None else text(args[name])


# The outcome.


def _outcome(process: Process, program: Program, *, in_time: bool) -> Outcome:
    stdout = str(process.stdout)
    code = process.returncode
    result = None if process.stdout.is_truncated or not in_time else _object(stdout)
    if result is None:
        result = {"exit_code": code} if code is None or code >= 0 else {"signal": _signal(code)}
        result |= {"stdout": stdout, "stderr": str(process.stderr)}
        if process.stdout.is_truncated or process.stderr.is_truncated:
            result["truncated"] = True
    if not in_time:
        end = "and cannot be killed" if code is None else "and was ended"
        return _failed(f"ran longer than {program.timeout:g} s, {end}", result)
    if code == 0:
        return Outcome(status=Status.SUCCEEDED, result=result)
    end = f"exit code {code}" if code is None or code >= 0 else f"ended by {_signal(code)}"
    last = str(process.stderr).rstrip().rpartition("\n")[2]
    return _failed(f"{end}: {last[:_REASON]}" if last else end, result)


def _failed(reason: str, result: Mapping[str, object] | None = None) -> Outcome:
    return Outcome(status=Status.FAILED, result=result or {}, reason=reason)


def _object(text: str) -> dict[str, object] | None:
    """Return the JSON object that the whole text is, if it is one."""
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and is_plain(value) else None


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def _why_not(program: Program, exc: OSError) -> str:
    if exc.filename == program.cwd:
        return f"cannot run {program.argv[0]} in {program.cwd}: {exc.strerror}"
    if isinstance(exc, FileNotFoundError) and "/" in program.argv[0]:
        return f"cannot run {program.argv[0]}: it, or what its first line says it runs with, is not there"
    if isinstance(exc, FileNotFoundError):
        return f"cannot run {program.argv[0]}: it is not in {program.environment.get('PATH', PATH)}"
    return f"cannot run {program.argv[0]}: {exc.strerror}"
