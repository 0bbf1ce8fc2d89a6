"""Commands as real programs: shell scripts that each test writes."""

import asyncio
import json
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.commands import program as module
from agent.commands.program import Program, Stdin, run
from agent.model import Outcome, Status

WITHIN = 30.0
Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a shell script, and return its path."""

    def write(text: str) -> str:
        file = tmp_path / f"script{len(list(tmp_path.iterdir()))}"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return str(file)

    return write


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No descriptor, no thread, no child, zombies included."""
    before, threads = descriptors(), threading.active_count()
    yield
    assert descriptors() == before
    assert threading.active_count() == threads
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # noqa: ASYNC222  WNOHANG does not wait


def descriptors() -> set[str]:
    # Reading the folder takes one itself, which is gone then.
    return {file.name for file in Path("/proc/self/fd").iterdir() if file.exists()}


async def perform(program: Program, **args: object) -> Outcome:
    async with asyncio.timeout(WITHIN):
        return await run(program, args, command_id="c-1", name="dock")


class Fifo:
    """Lines that a script writes into a pipe with a name, `path`, and those that it reads from another, `answers`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers = path.with_suffix(".answers")
        os.mkfifo(path)
        os.mkfifo(self.answers)
        self._answers = os.open(self.answers, os.O_RDWR)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._keeper = os.open(path, os.O_WRONLY)

    async def line(self) -> str:
        """Wait for one line, with no byte of the next."""
        loop, line = asyncio.get_running_loop(), b""
        async with asyncio.timeout(WITHIN):
            while not line.endswith(b"\n"):
                ready = loop.create_future()
                loop.add_reader(self._reader, lambda ready=ready: ready.done() or ready.set_result(None))
                try:
                    await ready
                finally:
                    loop.remove_reader(self._reader)
                line += os.read(self._reader, 1)
        return line.decode().strip()

    def answer(self, lines: int = 1) -> None:
        os.write(self._answers, b"\n" * lines)

    def close(self) -> None:
        os.close(self._answers)
        os.close(self._reader)
        os.close(self._keeper)


@pytest.fixture
async def fifo(nothing_is_left: None, tmp_path: Path) -> AsyncIterator[Fifo]:  # noqa: ARG001
    pipe = Fifo(tmp_path / "fifo")
    yield pipe
    pipe.close()


def is_there(pid: int) -> bool:
    """Tell whether there is such a process, if only as a zombie."""
    return Path(f"/proc/{pid}").exists()


async def is_gone(pid: int) -> bool:
    """Wait for the end of a process; what does not end is killed."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    try:
        async with asyncio.timeout(WITHIN):
            await ended
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return True


# What comes out.


async def test_a_program_that_ends_well_has_succeeded_with_its_output(script: Script) -> None:
    outcome = await perform(Program(argv=(script("echo out; echo err >&2"),)))
    assert outcome == Outcome(
        status=Status.SUCCEEDED, result={"exit_code": 0, "stdout": "out\n", "stderr": "err\n"}, reason=""
    )


async def test_another_exit_code_has_failed_with_the_last_line_of_standard_error(script: Script) -> None:
    outcome = await perform(Program(argv=(script("echo first >&2; echo no dock >&2; exit 3"),)))
    assert outcome.status is Status.FAILED
    assert outcome.reason == "exit code 3: no dock"
    assert outcome.result == {"exit_code": 3, "stdout": "", "stderr": "first\nno dock\n"}


async def test_a_program_that_is_killed_has_failed_with_the_name_of_the_signal(script: Script) -> None:
    outcome = await perform(Program(argv=(script("kill -SEGV $$"),)))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "ended by SIGSEGV")
    assert outcome.result == {"signal": "SIGSEGV", "stdout": "", "stderr": ""}


async def test_one_json_object_is_the_result(script: Script) -> None:
    assert (await perform(Program(argv=(script("""echo '{"docked": true}'"""),)))).result == {"docked": True}
    failed = await perform(Program(argv=(script("""echo '{"at": 3}'; exit 1"""),)))
    assert (failed.status, failed.reason, failed.result) == (Status.FAILED, "exit code 1", {"at": 3})


@pytest.mark.parametrize(
    "text", ["[1]", "7", '{"a":1} {"b":2}', '{"a":NaN}', '{"a":1e999}', r'{"a":"\ud800"}', '{"a":' * 5000]
)
async def test_what_is_no_json_object_that_others_can_read_stays_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "text").write_text(text)
    outcome = await perform(Program(argv=("cat", str(tmp_path / "text")), max_output=64 * 1024))
    assert outcome.result == {"exit_code": 0, "stdout": text, "stderr": ""}
    json.dumps(outcome.result, allow_nan=False).encode()


async def test_output_beyond_the_bound_is_read_and_thrown_away(script: Script) -> None:
    program = Program(argv=(script("head -c 20000000 /dev/zero | tr '\\0' x; echo end >&2"),), max_output=1000)
    outcome = await perform(program)
    assert outcome.result == {"exit_code": 0, "stdout": "x" * 1000, "stderr": "end\n", "truncated": True}


async def test_output_of_just_the_bound_is_not_truncated(script: Script) -> None:
    outcome = await perform(Program(argv=(script("printf 12345678; printf 1234567 >&2"),), max_output=8))
    assert outcome.result == {"exit_code": 0, "stdout": "12345678", "stderr": "1234567"}


async def test_what_is_not_utf_8_is_replaced_and_no_character_is_cut_in_two(script: Script) -> None:
    outcome = await perform(Program(argv=(script(r"printf 'a\377b'"),)))
    assert outcome.result["stdout"] == "a\N{REPLACEMENT CHARACTER}b"
    outcome = await perform(Program(argv=(script(r"printf 'a\303\244'"),), max_output=2))
    assert outcome.result == {"exit_code": 0, "stdout": "a", "stderr": "", "truncated": True}


# What goes in.


async def test_arguments_are_whole_arguments_and_no_shell_sees_them(script: Script) -> None:
    echo = script("""for one in "$@"; do echo "<$one>"; done""")
    program = Program(argv=(echo, "--to", "{to}", "{speed}", "{fast}", "{way}", "x{to}", "$HOME"))
    outcome = await perform(program, to="a b; $(id) {speed} *\n'", speed=1.5, fast=True, way=[1, "ä"])
    assert outcome.result["stdout"] == (
        '<--to>\n<a b; $(id) {speed} *\n\'>\n<1.5>\n<true>\n<[1,"ä"]>\n<x{to}>\n<$HOME>\n'
    )


async def test_standard_input_has_the_arguments_as_json_or_nothing() -> None:
    big = {"text": "ä" * 300_000}
    outcome = await perform(Program(argv=("wc", "-m")), **big)
    assert outcome.result["stdout"].strip() == str(300_000 + len('{"text":""}\n'))
    assert (await perform(Program(argv=("cat",)), speed=2)).result == {"speed": 2}
    assert (await perform(Program(argv=("wc", "-c"), stdin=Stdin.NOTHING), speed=2)).result["stdout"] == "0\n"


async def test_a_program_that_does_not_read_its_input_is_no_failure() -> None:
    assert (await perform(Program(argv=("true",)), text="x" * 1_000_000)).status is Status.SUCCEEDED


async def test_nothing_of_the_agents_environment_is_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    program = Program(argv=("env",), environment={"ROBOT": "7", "LANG": "de_AT.UTF-8"}, cwd=str(tmp_path))
    lines = sorted((await perform(program)).result["stdout"].split())
    assert lines == [
        "LANG=de_AT.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ROAMD_COMMAND=dock",
        "ROAMD_COMMAND_ID=c-1",
        "ROBOT=7",
    ]
    assert (await perform(Program(argv=("pwd",), cwd=str(tmp_path)))).result["stdout"] == f"{tmp_path}\n"


async def test_a_program_has_three_descriptors_and_a_session_of_its_own(script: Script) -> None:
    shown = await perform(Program(argv=(script("ls /proc/$$/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$"),)))
    *fds, group, pid = shown.result["stdout"].strip().split("\n")
    assert group == f"{pid} {pid}"
    assert set(fds) <= {"0", "1", "2", "10"}  # 10: the script, which the shell reads


# What cannot be run.


@pytest.mark.parametrize(
    ("argv", "cwd", "reason"),
    [
        (("/nonexistent/dock",), "/", "cannot run /nonexistent/dock: it, or what its first line says"),
        (("no-such-program",), "/", "cannot run no-such-program: it is not in /usr/local/sbin:"),
        (("/etc/passwd",), "/", "cannot run /etc/passwd: Permission denied"),
        (("/etc",), "/", "cannot run /etc: Permission denied"),
        (("true",), "/nonexistent", "cannot run true in /nonexistent: No such file or directory"),
        (("true",), "/etc/passwd", "cannot run true in /etc/passwd: Not a directory"),
        (("true", "a\0b"), "/", "cannot run true: embedded null byte"),
        (("true", "\ud800"), "/", "cannot run true: 'utf-8' codec can't encode"),
        (("true", "x" * 200_000), "/", "cannot run true: Argument list too long"),
    ],
)
async def test_what_cannot_be_run_has_failed_with_the_reason(argv: tuple[str, ...], cwd: str, reason: str) -> None:
    outcome = await perform(Program(argv=argv, cwd=cwd))
    assert (outcome.status, outcome.result) == (Status.FAILED, {})
    assert (outcome.reason or "").startswith(reason)


async def test_a_program_of_no_known_format_has_failed(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch(0o755)
    assert (await perform(Program(argv=(str(file),)))).reason == f"cannot run {file}: Exec format error"


async def test_without_descriptors_left_it_has_failed_and_takes_none() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    reasons = []
    used = max(map(int, descriptors()))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(used)]
    try:
        for room in range(12):  # one by one: the descriptors of all the steps of a start
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1 + room, before[1]))
            count = len(descriptors()) if room else None
            reasons.append((await perform(Program(argv=("true",)))).reason)
            assert count is None or len(descriptors()) == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)
    failures = reasons.count("cannot run true: Too many open files")
    assert 5 <= failures < 12
    assert reasons[failures:] == [""] * (12 - failures)


# How it ends.


async def test_what_runs_too_long_gets_sigterm(script: Script) -> None:
    waiting = script("trap 'echo bye; exit 0' TERM; echo here; while :; do sleep 0.05; done")
    outcome = await perform(Program(argv=(waiting,), timeout=1.0))
    assert (outcome.status, outcome.reason) == (Status.FAILED, "ran longer than 1 s, and was ended")
    assert (outcome.result["exit_code"], outcome.result["stdout"]) == (0, "here\nbye\n")


async def test_what_ignores_sigterm_is_killed_with_all_its_group(script: Script, fifo: Fifo) -> None:
    ignoring = f"trap '' TERM; sleep 1000 & echo $! > {fifo.path}; echo $$ > {fifo.path}; while :; do sleep 1; done"
    started = asyncio.get_running_loop().time()
    outcome = await perform(Program(argv=(script(ignoring),), timeout=1.0, kill_after=0.3))
    took = asyncio.get_running_loop().time() - started
    assert outcome.reason == "ran longer than 1 s, and was ended"
    assert outcome.result["signal"] == "SIGKILL"
    assert 1.3 <= took < 10
    assert await is_gone(int(await fifo.line()))
    assert await is_gone(int(await fifo.line()))


async def test_a_grandchild_that_holds_the_output_holds_nothing_up(script: Script, fifo: Fifo) -> None:
    outcome = await perform(
        Program(argv=(script(f"sleep 1000 & echo $! > {fifo.path}; echo done"),), timeout=20, kill_after=0.2)
    )
    assert (outcome.status, outcome.result["stdout"]) == (Status.SUCCEEDED, "done\n")
    assert await is_gone(int(await fifo.line()))


async def test_a_grandchild_that_left_the_group_with_the_output_holds_nothing_up(script: Script, fifo: Fifo) -> None:
    left = f"setsid sh -c 'echo $$ > {fifo.path}; exec sleep 1000' & read x < {fifo.answers}; echo done"
    async with asyncio.TaskGroup() as group:
        running = group.create_task(perform(Program(argv=(script(left),), timeout=20, kill_after=0.2)))
        pid = int(await fifo.line())
        fifo.answer()
    assert running.result().result["stdout"] == "done\n"
    os.kill(pid, signal.SIGKILL)
    assert await is_gone(pid)


async def test_output_that_comes_after_the_end_of_the_program_is_in_the_result(script: Script, fifo: Fifo) -> None:
    late = f"(read x < {fifo.answers}; echo late) & echo soon; echo $$ > {fifo.path}"
    async with asyncio.TaskGroup() as group:
        running = group.create_task(perform(Program(argv=(script(late),), kill_after=20)))
        pid = int(await fifo.line())
        assert await is_gone(pid)
        fifo.answer()
    assert running.result().result["stdout"] == "soon\nlate\n"


async def test_fifty_at_once_take_no_thread_and_mix_nothing_up(script: Script, fifo: Fifo) -> None:
    path = script(f"echo x > {fifo.path}; read x < {fifo.answers}; echo $1")
    threads = threading.active_count()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(perform(Program(argv=(path, "{n}")), n=n)) for n in range(50)]
        for _ in range(50):
            await fifo.line()
        assert threading.active_count() == threads
        fifo.answer(50)
    assert [task.result().result["stdout"] for task in tasks] == [f"{n}\n" for n in range(50)]


async def test_cancelling_ends_the_group_gently_and_goes_on_as_cancelled(script: Script, fifo: Fifo) -> None:
    text = f"trap 'echo term > {fifo.path}; exit' TERM; sleep 1000 & echo $! > {fifo.path}; wait"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(perform(Program(argv=(script(text),))))
        sleeping = int(await fifo.line())
        task.cancel()
        assert await fifo.line() == "term"
    assert task.cancelled()
    assert await is_gone(sleeping)


async def test_cancelling_kills_what_ignores_sigterm(script: Script, fifo: Fifo) -> None:
    text = f"trap '' TERM; echo $$ > {fifo.path}; while :; do sleep 1; done"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(perform(Program(argv=(script(text),), kill_after=0.2)))
        pid = int(await fifo.line())
        task.cancel()
    assert task.cancelled()
    assert await is_gone(pid)


async def test_cancelling_twice_kills_at_once(script: Script, fifo: Fifo) -> None:
    text = f"trap 'echo term > {fifo.path}' TERM; echo $$ > {fifo.path}; while :; do sleep 0.05; done"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(perform(Program(argv=(script(text),), kill_after=3600)))
        pid = int(await fifo.line())
        task.cancel()
        assert await fifo.line() == "term"
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # cannot hurry what was killed
        await asyncio.wait([task])
        assert not is_there(pid)
    assert task.cancelled()


async def test_what_cannot_be_killed_does_not_hold_up_the_result_and_is_reaped_at_its_end(
    script: Script, fifo: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a program of root's is to an agent that is not root.
    killpg = os.killpg

    def denied(_group: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    text = f"trap '' TERM; echo $$ > {fifo.path}; while :; do sleep 1; done"
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", denied)
        patch.setattr(module, "_LAST", 0.1)
        outcome = await perform(Program(argv=(script(text),), timeout=0.2, kill_after=0.1))
    assert outcome.reason == "ran longer than 0.2 s, and cannot be killed"
    assert outcome.result == {"exit_code": None, "stdout": "", "stderr": ""}
    pid = int(await fifo.line())
    killpg(pid, signal.SIGKILL)
    assert await is_gone(pid)
