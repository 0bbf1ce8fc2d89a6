"""`roamd ground send`, `get-state` and `set`."""

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.cli.ground.broker import broker, hello, prefix
from agent.cli.logs import log_to_stderr
from agent.errors import SettingsError, UnavailableError
from agent.ground import desired
from agent.ground.ask import Command, ask, push
from agent.ground.file import opened
from agent.link.opening import Hello
from agent.model import Message


def send(arguments: argparse.Namespace) -> int:
    """Send a command, and print its result as one line of JSON; 0 if it succeeded, else 1. Raises UnavailableError."""
    result = _result(arguments, arguments.command, dict(arguments.args), ttl=arguments.ttl, key=arguments.id)
    print(json.dumps(result))
    return 0 if result.get("status") == "succeeded" else 1


def get_state(arguments: argparse.Namespace) -> int:
    """Print a device's state document; 1 where it answers with something else. Raises UnavailableError."""
    result = _result(arguments, "get_state", {}, ttl=None, key=None)
    state = result.get("result") if result.get("status") == "succeeded" else result
    print(json.dumps(state, indent=2))
    return 0 if isinstance(state, dict) and "reported" in state else 1


def set_desired(arguments: argparse.Namespace) -> int:
    """Write a new version of a device's desired state, and push it. Raises UnavailableError and StorageError."""
    log_to_stderr("warning")
    topic = f"{_prefix_of(arguments)}/desired"
    greeting = _hello(arguments)
    with opened(arguments.db) as database:
        version, payload = desired.change(database, arguments.device, _nested(arguments.changes))
    message = Message(topic=topic, payload=payload, retain=arguments.retain)
    print(payload.decode())
    try:
        asyncio.run(push(message, greeting, timeout=arguments.timeout))
    except UnavailableError as exc:
        raise UnavailableError(
            f"{exc}; version {version} is kept, and the device is told when it asks `roamd ground run`"
        ) from exc  # fmt: skip
    return 0


def _result(
    arguments: argparse.Namespace, name: str, args: dict[str, Any], *, ttl: float | None, key: str | None
) -> dict[str, Any]:
    log_to_stderr("warning")
    command = Command(
        prefix=_prefix_of(arguments),
        name=name,
        id=key or uuid.uuid4().hex,
        args=args,
        timeout=arguments.timeout,
        ttl=arguments.timeout if ttl is None else ttl,
    )
    return asyncio.run(ask(command, _hello(arguments), accepted=lambda: _say(f"{name} was accepted, and runs")))


def _say(line: str) -> None:
    print(f"roamd: {line}", file=sys.stderr)


def _prefix_of(arguments: argparse.Namespace) -> str:
    try:
        return prefix(arguments).of(arguments.device)
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _hello(arguments: argparse.Namespace) -> Hello:
    """Return how to connect for a moment: under a name of its own, and leaving no session behind."""
    client_id = f"roamd-ground-{uuid.uuid4().hex[:12]}"
    return replace(hello(broker(arguments)), client_id=client_id, clean_start=True, session_expiry=0)


def _nested(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a document: `a.b` is b in the table a. Raises SettingsError."""
    document: dict[str, Any] = {}
    for key, value in pairs:
        *tables, last = key.split(".")
        table = document
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise SettingsError(f"{key}: {name} is set to something else than a table")
        table[last] = value
    return document
