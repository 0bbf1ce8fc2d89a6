"""One process, from its start until nothing of it is left."""

import asyncio
import codecs
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

_READ = 65_536


class Process:
    """A process that runs: what it writes, and when it ends. The event loop calls; there is no task and no thread.

    It is reaped last of all, so that until then its number, which is its group's as well, is nobody else's.
    """

    def __init__(
        self, popen: "subprocess.Popen[bytes]", *, pidfd: int, stdout: int, stderr: int, max_output: int
    ) -> None:
        self._popen = popen
        self._pidfd = pidfd
        self._has_ended = False
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._end)
        self.stdout = _Output(stdout, max_output, self._news)
        self.stderr = _Output(stderr, max_output, self._news)
        self.returncode: int | None = None
        """Negative for a signal; None for what could not be killed."""

    async def ended(self, *, within: float) -> bool:
        """Wait for its end, and tell whether it came."""
        return await self._until(lambda: self._has_ended, within)

    async def silent(self, *, within: float) -> None:
        """Wait until it has ended and its output is closed, by whomever else has it."""
        await self._until(lambda: self._has_ended and not self.stdout.is_open and not self.stderr.is_open, within)

    async def gone(self, *, within: float) -> None:
        """Wait for its end, cancelled or not: it was killed, so that it ends soon, if it can."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await self.ended(within=within)
                break
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    async def _until(self, condition: Callable[[], bool], within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        return condition()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the group, to those in it that this user may send one."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def close(self) -> None:
        """Give everything back. What could not be killed, a program of root's or in the kernel, is reaped later."""
        self.stdout.close()
        self.stderr.close()
        if self._has_ended:
            self._reap()
        else:
            self._loop.add_reader(self._pidfd, self._reap)

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._has_ended = True
        self._news.set()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = self._popen.wait()


class _Output:
    """What comes out of one pipe: all of it is read, so that nobody has to wait, and the beginning is kept."""

    def __init__(self, pipe: int, most: int, news: asyncio.Event) -> None:
        self._pipe = pipe
        self._most = most
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self.is_truncated = False
        self.is_open = True
        self._loop.add_reader(pipe, self._read)

    def __str__(self) -> str:
        # A character that was cut in two at the end is left out; what never was one is replaced.
        return codecs.getincrementaldecoder("utf-8")("replace").decode(self._kept, final=not self.is_truncated)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._news.set()

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, _READ)
        except BlockingIOError:
            return
        if not data:
            self.close()
        room = self._most - len(self._kept)
        self._kept += data[:room]
        self.is_truncated = self.is_truncated or len(data) > room


def start(argv: Sequence[str], *, stdin: bytes, cwd: str, environment: Mapping[str, str], max_output: int) -> Process:
    """Start a program in a session of its own. Raises OSError, and ValueError for text that cannot be passed.

    asyncio does it the same way, and on Python 3.11 then takes a thread for each to wait for its end.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        # A file that has all the input: nobody has to write while the program runs.
        file = its.enter_context(os.fdopen(os.memfd_create("stdin"), "w+b"))
        file.write(stdin)
        file.seek(0)
        # Popen's own pipes stay open where there are descriptors for one and not for the other.
        (stdout, its_stdout), (stderr, its_stderr) = _pipe(ours, its), _pipe(ours, its)
        popen = subprocess.Popen(  # noqa: S603  the settings say what runs, and no shell reads the arguments
            argv,
            stdin=file,
            stdout=its_stdout,
            stderr=its_stderr,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(popen.pid)
        except OSError:
            popen.kill()
            popen.wait()
            raise
        ours.pop_all()
    return Process(popen, pidfd=pidfd, stdout=stdout, stderr=stderr, max_output=max_output)


def _pipe(ours: contextlib.ExitStack, its: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    its.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write
