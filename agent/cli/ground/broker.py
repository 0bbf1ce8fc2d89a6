"""How to connect: the options as settings of the agent's, so that both mean the same."""

import argparse
import os
from pathlib import Path

from agent.backoff import Backoff
from agent.errors import SettingsError
from agent.ground.prefix import Prefix
from agent.link.opening import Hello
from agent.link.tls import Tls
from agent.settings import BrokerTable, load

_OPTIONS = {
    "ROAMD_BROKER__URLS": "broker",
    "ROAMD_BROKER__USERNAME": "username",
    "ROAMD_BROKER__PASSWORD_FILE": "password_file",
    "ROAMD_BROKER__CA_FILE": "ca_file",
    "ROAMD_BROKER__CERT_FILE": "cert_file",
    "ROAMD_BROKER__KEY_FILE": "key_file",
    "ROAMD_BROKER__CLIENT_ID": "client_id",
}


def broker(arguments: argparse.Namespace, *, client_id: str | None = None) -> BrokerTable:
    """Return the options as `[broker]`, with ROAMD_BROKER__ variables for what is not given. Raises SettingsError."""
    if arguments.config is not None:
        raise SettingsError(
            "--config is for the agent; `roamd ground` is told by its options and ROAMD_BROKER__ variables"
        )
    own = {name: value for name, value in os.environ.items() if name.startswith(("ROAMD_BROKER__", "CREDENTIALS_"))}
    given = {name: getattr(arguments, option, None) for name, option in _OPTIONS.items()}
    own |= {name: value for name, value in given.items() if value is not None}
    if client_id is not None:
        own["ROAMD_BROKER__CLIENT_ID"] = client_id
    try:
        return load(config=Path(os.devnull), environ=own, hostname="ground").settings.broker
    except SettingsError as exc:
        text = str(exc)
        for name, option in _OPTIONS.items():
            if given[name] is not None:
                text = text.replace(f"{name}:", f"--{option.replace('_', '-')}:")
        raise SettingsError(text) from exc


def hello(table: BrokerTable) -> Hello:
    """Return how to connect to the first of the brokers. Raises SettingsError."""
    server = table.servers[0]
    return Hello(
        server=server,
        client_id=table.client_id,
        version=table.protocol,
        username=table.username or None,
        password=table.password.get_secret_value() if table.password else None,
        keep_alive=table.keep_alive,
        session_expiry=table.session_expiry,
        connect_timeout=table.connect_timeout,
        hello_timeout=table.hello_timeout,
        dead_after=table.dead_after,
        tls=Tls(ca_file=table.ca_file, cert_file=table.cert_file, key_file=table.key_file) if server.is_tls else None,
    )


def backoff(table: BrokerTable) -> Backoff:
    """Return how long to wait between attempts."""
    waits = table.backoff
    return Backoff(strategy=waits.strategy, base=waits.base, cap=waits.cap, jitter=waits.jitter)


def prefix(arguments: argparse.Namespace) -> Prefix:
    """Return where the devices are. Raises SettingsError."""
    try:
        return Prefix.parse(arguments.prefix)
    except ValueError as exc:
        raise SettingsError(f"--prefix: {exc}") from exc
