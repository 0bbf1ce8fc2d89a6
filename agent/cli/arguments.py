"""What the command line takes."""

import argparse
import sys
from pathlib import Path
from typing import Never

from agent import __version__
from agent.cli.ground import arguments as ground

EX_USAGE = 64
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        """Say what is wrong and exit 64 (EX_USAGE), where argparse would exit 2."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser; `call` in what it parses is the function to call with it."""
    top = _Parser(
        prog="roamd",
        description="Telemetry agent for robots and vehicles.\nReadings go over MQTT 5 through a\ndurable outbox.",
        epilog="examples:\n  roamd demo --for 20s --outage 8s\n  roamd run --config ./roamd.toml\n  roamd config show",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"roamd {__version__}")
    _add_config(top, default=None)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the agent in the foreground, as systemd does")
    _add_config(run, default=argparse.SUPPRESS)
    run.set_defaults(call=_run)

    demo = commands.add_parser("demo", help="run everything on this machine, with a broker of its own")
    demo.add_argument("--for", dest="duration", type=_duration, metavar="TIME", help="end after this long, such as 20s")
    demo.add_argument(
        "--outage", type=_duration, metavar="TIME", help="kill the broker midway, for this long, such as 8s"
    )
    demo.set_defaults(call=_demo)

    ground.add(commands, duration=_duration)

    config = commands.add_parser("config", help="look at the settings")
    _add_config(config, default=argparse.SUPPRESS)
    shows = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = shows.add_parser("show", help="print the settings in effect as TOML, with where each came from")
    _add_config(show, default=argparse.SUPPRESS)
    show.set_defaults(call=_config_show)

    service = commands.add_parser("service", help="the systemd service of an installation by pip or pipx (root)")
    steps = service.add_subparsers(title="commands", metavar="COMMAND", required=True)
    install = steps.add_parser("install", help="write the unit, make the user roamd, start the service")
    _add_root(install)
    install.set_defaults(call=_service_install)
    uninstall = steps.add_parser("uninstall", help="stop the service and remove the unit; settings and outbox stay")
    _add_root(uninstall)
    uninstall.set_defaults(call=_service_uninstall)
    return top


def _add_root(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--root", type=Path, metavar="FOLDER", help="only write or remove files, below this folder; run nothing"
    )


def _add_config(to: argparse.ArgumentParser, default: str | None) -> None:
    to.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help="read this file only, and the environment (default: /etc/roamd/roamd.toml and conf.d/*.toml)",
    )


def _duration(text: str) -> float:
    number = text.rstrip("mshd")
    try:
        seconds = float(number) * _UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 20s, 500ms or 2m")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    from agent.cli import run  # noqa: PLC0415  only what is called is imported

    return run.main(arguments.config)


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.config is not None:
        parser().error("the demo has settings of its own: it takes no --config")
    from agent.cli import demo  # noqa: PLC0415  only what is called is imported

    return demo.run(arguments.duration, arguments.outage)


def _config_show(arguments: argparse.Namespace) -> int:
    from agent.cli import config  # noqa: PLC0415  only what is called is imported

    return config.show(arguments.config)


def _service_install(arguments: argparse.Namespace) -> int:
    from agent.cli import service  # noqa: PLC0415  only what is called is imported

    return service.install(arguments.root)


def _service_uninstall(arguments: argparse.Namespace) -> int:
    from agent.cli import service  # noqa: PLC0415  only what is called is imported

    return service.uninstall(arguments.root)
