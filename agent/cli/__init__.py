"""Arguments, printing, exit codes. What only one subcommand needs is imported by that one alone."""

import errno
import logging
import os
import sys
from collections.abc import Sequence

from agent.cli.arguments import parser
from agent.errors import SettingsError, StorageError, UnavailableError

EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_IOERR = 74
EX_CONFIG = 78
_INTERRUPTED = 130

_EXIT_CODES = {UnavailableError: EX_UNAVAILABLE, StorageError: EX_IOERR, SettingsError: EX_CONFIG}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (sysexits.h)."""
    try:
        return _call(argv)
    except (UnavailableError, StorageError, SettingsError) as exc:
        for line in str(exc).splitlines():
            print(f"roamd: {line}", file=sys.stderr)
        return _EXIT_CODES[type(exc)]
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        _drop_output()
        return 0
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            _drop_output()
            print(f"roamd: {exc.strerror}", file=sys.stderr)
            return EX_IOERR
        logging.getLogger("agent").critical("roamd has a bug; please report it with these lines", exc_info=True)
        return EX_SOFTWARE


def _call(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.call(arguments)
        return code
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
