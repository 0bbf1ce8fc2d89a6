"""The local socket: other programs' samples and events come in, answers and figures go out (contract, section 8).

Lines of JSON each way. A client that sends rubbish, does not read its answers or never ends a line costs itself only.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent import clock, encode
from agent.errors import StorageError
from agent.lines import Get, LineError, Offer, Put, Ref, Result, parse
from agent.model import Outcome, Record, Sample

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_MOST_UNANSWERED = 10_000


class Store(Protocol):
    """What the socket needs of the outbox."""

    async def room(self) -> None: ...  # noqa: D102
    def accept(self, sample: Sample) -> Record: ...  # noqa: D102
    def promise(self, record: Record) -> asyncio.Future[None] | None: ...  # noqa: D102


class Programs(Protocol):
    """What the socket needs of those commands that clients perform; where they cannot, it raises ValueError."""

    def program(self, send: Callable[[bytes], None]) -> Any: ...  # noqa: D102, ANN401  whom it knows by it
    def offer(self, program: Any, names: Iterable[str]) -> None: ...  # noqa: D102, ANN401
    def answer(self, program: Any, command_id: str, outcome: Outcome) -> None: ...  # noqa: D102, ANN401
    def withdraw(self, program: Any) -> None: ...  # noqa: D102, ANN401


@asynccontextmanager
async def listening(
    path: Path, store: Store, programs: Programs, *, figures: Callable[[], Mapping[str, object]], max_line: int
) -> AsyncIterator[None]:
    """Serve the Unix stream socket at `path`, mode 0660, until the end of the block.

    `programs` has clients perform commands. `figures` gives the answer to `{"get":"status"}`; `max_line` is in bytes.
    Raises StorageError where the socket cannot be made, or another process listens there.
    """
    listener, inode = _listener(path)
    clients: set[asyncio.Task[None]] = set()
    ending = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if ending.is_set():  # it was accepted just before
                    writer.transport.abort()
                    return
                client = _Client(reader, writer, store, programs, figures=figures, max_line=max_line)
                task = group.create_task(client.serve(), name="client of the local socket")
                clients.add(task)
                task.add_done_callback(clients.discard)

            server = await asyncio.start_unix_server(connected, sock=listener)
            try:
                yield
            finally:
                ending.set()
                server.close()
                for task in clients:
                    task.cancel()
    finally:
        _remove(path, inode)


def _listener(path: Path) -> tuple[socket.socket, int]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            _take_over(path)
        before = os.umask(0o117)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        inode = path.stat().st_ino
    except OSError as exc:
        sock.close()
        raise StorageError(
            f"cannot listen on {path}: {exc.strerror or exc}; set ingest.socket to another path"
        ) from exc
    sock.setblocking(False)  # noqa: FBT003  socket's own
    return sock, inode


def _remove(path: Path, inode: int) -> None:
    """Remove the socket, unless another process has put its own there."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _take_over(path: Path) -> None:
    """Remove a socket on which nobody listens any more. Raises OSError where somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  socket's own
        answer = probe.connect_ex(str(path))
    if answer in {0, errno.EAGAIN}:
        raise OSError(errno.EADDRINUSE, "another process listens there")
    path.unlink()


class _Client:
    """One connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        store: Store,
        programs: Programs,
        *,
        figures: Callable[[], Mapping[str, object]],
        max_line: int,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._store = store
        self._programs = programs
        self._program: Any = None
        self._figures = figures
        self._max_line = max_line
        self._unanswered = 0
        self._progress = asyncio.Event()

    async def serve(self) -> None:
        """Take lines until the client closes its side, then answer what has not been answered yet."""
        log.debug("a local program connected: %s", _peer(self._writer))
        try:
            async for line in self._read_lines():
                await self._store.room()
                await self._take(line)
                await self._answered(down_to=_MOST_UNANSWERED)
            await self._answered(down_to=1)
            await self._writer.drain()
        except ConnectionError as exc:
            log.debug("a local program is gone: %s", exc)
        except asyncio.CancelledError:
            self._writer.transport.abort()  # who does not read would keep wait_closed() waiting
            raise
        finally:
            if self._program is not None:
                self._programs.withdraw(self._program)
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _read_lines(self) -> AsyncIterator[bytes]:
        """Iterate over the lines; one that is too long is answered with an error and passed over to its end."""
        kept = b""
        passing_over = False
        while chunk := await self._reader.read(_CHUNK):
            *lines, kept = (kept + chunk).split(b"\n")
            for line in lines:
                if passing_over or len(line) > self._max_line:
                    passing_over = False
                    self._refuse_long_line()
                elif line.strip():
                    yield line
            if len(kept) > self._max_line:
                passing_over = True
            if passing_over:
                kept = b""
            await self._writer.drain()  # who does not read its answers is not read from either
        if passing_over:
            self._refuse_long_line()
        elif kept.strip():
            yield kept

    async def _take(self, line: bytes) -> None:
        try:
            request = parse(line)
        except LineError as exc:
            self._refuse(exc.ref, str(exc))
            return
        if isinstance(request, Get):
            self._answer({"ref": request.ref, "ok": True, "status": self._figures()})
            # It costs much more than a sample: nobody has several before others have had their turn.
            await self._writer.drain()
            await asyncio.sleep(0)
        elif isinstance(request, Put):
            self._put(request)
        else:
            self._perform(request)

    def _perform(self, request: Offer | Result) -> None:
        if self._program is None:
            self._program = self._programs.program(self._write)
        try:
            if isinstance(request, Offer):
                self._programs.offer(self._program, request.commands)
            else:
                self._programs.answer(self._program, request.of, request.outcome)
        except ValueError as exc:
            self._refuse(request.ref, str(exc))
            return
        if request.ref is not None:
            self._answer({"ref": request.ref, "ok": True})

    def _put(self, put: Put) -> None:
        ts = clock.unix_ms() if put.ts is None else put.ts
        sample = Sample(stream=put.stream, ts=ts, taken=clock.monotonic(), fields=put.fields)
        try:
            record = self._store.accept(sample)
        except ValueError as exc:
            self._refuse(put.ref, str(exc))
            return
        if put.ref is None:
            return
        promise = self._store.promise(record)
        if promise is None:
            self._kept(put.ref, record)
        else:
            self._unanswered += 1
            promise.add_done_callback(partial(self._promised, put.ref, record))

    def _promised(self, ref: Ref, record: Record, promise: asyncio.Future[None]) -> None:
        self._unanswered -= 1
        self._progress.set()
        if not promise.cancelled():
            self._kept(ref, record)

    async def _answered(self, *, down_to: int) -> None:
        while self._unanswered >= down_to:
            self._progress.clear()
            await self._progress.wait()

    # What it is told.

    def _kept(self, ref: Ref, record: Record) -> None:
        self._answer({"ref": ref, "ok": True, "epoch": record.epoch, "seq": record.seq})

    def _refuse_long_line(self) -> None:
        self._refuse(None, f"the line is longer than {self._max_line} bytes (ingest.max_line)")

    def _refuse(self, ref: Ref, why: str) -> None:
        self._answer({"ref": ref, "ok": False, "error": why} if ref is not None else {"ok": False, "error": why})

    def _answer(self, answer: Mapping[str, object]) -> None:
        self._write(encode.document(answer))

    def _write(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line + b"\n")


def _peer(writer: asyncio.StreamWriter) -> str:
    """Return who is at the other end (SO_PEERCRED, unix(7))."""
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return f"pid {pid}, uid {uid}, gid {gid}"
