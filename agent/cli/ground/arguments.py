"""What `roamd ground` takes. Its options may stand before or after the name of what it is to do."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIMEOUT = 30.0
_USAGE = "%(prog)s\n       [OPTION ...] "

Duration = Callable[[str], float]


def add(commands: Any, *, duration: Duration) -> None:  # noqa: ANN401  argparse's own
    """Add `ground` and what it can do."""
    ground = commands.add_parser(
        "ground",
        help="the other side: receive from agents, keep it, command them",
        usage="roamd ground\n       [OPTION ...] [COMMAND]",
    )
    _add_broker(ground, suppress=False)
    _add_db(ground, suppress=False)
    _add_run(ground, suppress=False)
    ground.set_defaults(call=_run)
    kinds = ground.add_subparsers(title="commands (default: run)", metavar="COMMAND", prog="roamd ground")

    run = kinds.add_parser(
        "run", help="receive what devices publish and keep it; answer those that ask", usage=_USAGE.rstrip()
    )
    _add_broker(run, suppress=True)
    _add_db(run, suppress=True)
    _add_run(run, suppress=True)
    run.set_defaults(call=_run)

    send = kinds.add_parser(
        "send", help="send a command and wait for its result", usage=f"{_USAGE}DEVICE COMMAND\n       [KEY=VALUE ...]"
    )
    _add_broker(send, suppress=True)
    send.add_argument("device", metavar="DEVICE")
    send.add_argument("command", metavar="COMMAND", type=_name)
    send.add_argument("args", metavar="KEY=VALUE", nargs="*", type=pair, help="VALUE is JSON, or else a string")
    send.add_argument("--id", help="send a known one again, and get its result again (default: a new one)")
    _add_timeout(send, duration)
    send.add_argument("--ttl", type=duration, metavar="TIME", help="expire after this long (default: --timeout)")
    send.set_defaults(call=_send)

    get_state = kinds.add_parser("get-state", help="ask a device for its state document", usage=f"{_USAGE}DEVICE")
    _add_broker(get_state, suppress=True)
    get_state.add_argument("device", metavar="DEVICE")
    _add_timeout(get_state, duration)
    get_state.set_defaults(call=_get_state)

    set_ = kinds.add_parser(
        "set", help="change a device's desired state, and push it", usage=f"{_USAGE}DEVICE KEY=VALUE ..."
    )
    _add_broker(set_, suppress=True)
    _add_db(set_, suppress=True)
    set_.add_argument("device", metavar="DEVICE")
    set_.add_argument(
        "changes", metavar="KEY=VALUE", nargs="+", type=pair, help="a.b=1 sets b in the table a; null takes away"
    )
    set_.add_argument("--retain", action="store_true", help="have the broker keep the push for the device")
    _add_timeout(set_, duration)
    set_.set_defaults(call=_set)

    devices = kinds.add_parser("devices", help="what is known of the devices")
    _add_db(devices, suppress=True)
    devices.add_argument("--json", action="store_true", help="print all of it, an object a line")
    devices.set_defaults(call=_devices)

    records = kinds.add_parser("records", help="print the records of a stream, in their order")
    _add_db(records, suppress=True)
    records.add_argument("device", metavar="DEVICE")
    records.add_argument("stream", metavar="STREAM", help="such as imu or event/door_opened")
    records.add_argument("--json", action="store_true", help="print them as they came, an object a line")
    records.set_defaults(call=_records)


def _default(value: object, *, suppress: bool) -> Any:  # noqa: ANN401  argparse's own
    """Return a default, but none for a subcommand: it would replace what was given before the subcommand's name."""
    return argparse.SUPPRESS if suppress else value


def _add_broker(to: argparse.ArgumentParser, *, suppress: bool) -> None:
    group = to.add_argument_group("broker", "or in the environment: ROAMD_BROKER__URLS, ROAMD_BROKER__PASSWORD, ...")
    group.add_argument("--broker", metavar="URL", default=_default(None, suppress=suppress),
                       help="mqtt://HOST or mqtts://HOST, with :PORT or without")  # fmt: skip
    for option, what in (
        ("--username", "NAME"),
        ("--password-file", "FILE"),
        ("--ca-file", "FILE"),
        ("--cert-file", "FILE"),
        ("--key-file", "FILE"),
    ):
        group.add_argument(option, metavar=what, default=_default(None, suppress=suppress))
    group.add_argument("--prefix", metavar="TOPIC", default=_default("device/+", suppress=suppress),
                       help="where the devices are; + is a device's name (default: device/+)")  # fmt: skip


def _add_db(to: argparse.ArgumentParser, *, suppress: bool) -> None:
    to.add_argument("--db", type=Path, metavar="FILE", default=_default(Path("roamd-ground.db"), suppress=suppress),
                    help="what is kept (default: roamd-ground.db)")  # fmt: skip


def _add_run(to: argparse.ArgumentParser, *, suppress: bool) -> None:
    to.add_argument("--share", metavar="GROUP", type=_name, default=_default(None, suppress=suppress),
                    help="share the work with others of this group")  # fmt: skip
    to.add_argument("--client-id", metavar="ID", default=_default(None, suppress=suppress),
                    help="of the session at the broker (default: one that the file keeps)")  # fmt: skip


def _add_timeout(to: argparse.ArgumentParser, duration: Duration) -> None:
    to.add_argument("--timeout", type=duration, default=_TIMEOUT, metavar="TIME", help="wait this long (default: 30s)")


def pair(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE: JSON where the value is some, else a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return key, value


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


def _run(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import receive  # noqa: PLC0415  only what is called is imported

    return receive.run(arguments)


def _send(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import ask  # noqa: PLC0415  only what is called is imported

    return ask.send(arguments)


def _get_state(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import ask  # noqa: PLC0415  only what is called is imported

    return ask.get_state(arguments)


def _set(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import ask  # noqa: PLC0415  only what is called is imported

    return ask.set_desired(arguments)


def _devices(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import show  # noqa: PLC0415  only what is called is imported

    return show.devices(arguments)


def _records(arguments: argparse.Namespace) -> int:
    from agent.cli.ground import show  # noqa: PLC0415  only what is called is imported

    return show.records(arguments)
