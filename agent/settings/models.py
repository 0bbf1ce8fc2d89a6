"""What can be set, with its defaults (contract, section 10). Frozen; unknown keys are errors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from agent import sources
from agent.backoff import Strategy
from agent.model import Confirm, Delivery, Server, Version
from agent.settings.commands import CommandsTable
from agent.settings.table import NAME, NAME_RULE, Table
from agent.settings.units import Band, Bytes, Number, Seconds, WholeSeconds

_DIRECTORIES = ("$STATE_DIRECTORY", "$RUNTIME_DIRECTORY")
_QOS_2 = 2
_UNTOLD_WINDOW = 20  # what mosquitto takes by default: its max_inflight_messages
_URL_RULE = "must be mqtt://HOST, mqtts://HOST (TLS), or one of them with :PORT"


class TopicsTable(Table):
    """[topics]: where everything is published."""

    prefix: str = Field(default="device/{device_id}", max_length=1000)

    @field_validator("prefix")
    @classmethod
    def _a_topic_name(cls, value: str) -> str:
        if re.search(r"[+#\x00]", value):
            raise ValueError("must have no + and no #: it is the beginning of topic names")
        if not value or value.startswith(("/", "$")) or value.endswith("/") or "//" in value:
            raise ValueError("must be a topic without empty levels, such as device/{device_id}, and not begin with $")
        if "{" in value.replace("{device_id}", ""):
            raise ValueError("knows only the placeholder {device_id}")
        return value


class BackoffTable(Table):
    """[broker.backoff]: waits between attempts to connect, in seconds."""

    strategy: Strategy = Strategy.FULL_JITTER
    base: Seconds = Field(default=1.0, ge=0.01, le=3600)
    cap: Seconds = Field(default=30.0, ge=0.01, le=3600)
    jitter: Seconds = Field(default=0.5, ge=0, le=3600)
    link_cap: Seconds = Field(default=4.0, ge=0.01, le=3600)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.cap < self.base:
            raise ValueError(f"cap ({self.cap:g} s) is below base ({self.base:g} s)")
        return self


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _version(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise ValueError('must be "5" or "3.1.1"')


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


_FileOrNone = Annotated[Path | None, BeforeValidator(_none_if_empty)]
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class BrokerTable(Table):
    """[broker]: where to connect, as whom, and how patiently. Times are in seconds."""

    urls: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("mqtt://localhost:1883",)
    protocol: Annotated[Version, BeforeValidator(_version)] = Version.MQTT_5
    client_id: str = Field(default="{device_id}", max_length=1000)
    username: str = Field(default="", max_length=10_000)
    password: SecretStr | None = None
    password_file: _FileOrNone = None
    ca_file: _FileOrNone = None
    cert_file: _FileOrNone = None
    key_file: _FileOrNone = None
    keep_alive: WholeSeconds = Field(default=30, ge=5, le=65_535)
    session_expiry: WholeSeconds = Field(default=86_400, ge=0, le=4_294_967_295)
    clean_start: bool = False
    will_delay: WholeSeconds = Field(default=15, ge=0, le=4_294_967_295)
    connect_timeout: Seconds = Field(default=3.0, ge=0.1, le=300)
    hello_timeout: Seconds = Field(default=10.0, ge=0.1, le=300)
    dead_after: Seconds = Field(default=10.0, ge=1, le=300)
    stable_after: Seconds = Field(default=30.0, ge=0, le=86_400)
    return_after: Seconds = Field(default=300.0, ge=0, le=86_400)
    referrals: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    max_inflight: Number = Field(default=1000, ge=1, le=10_000)
    backoff: BackoffTable = BackoffTable()

    @field_validator("urls")
    @classmethod
    def _brokers(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not urls:
            raise ValueError("must name a broker, such as mqtt://localhost:1883")
        servers = [_server(url) for url in urls]
        if twice := [str(server) for place, server in enumerate(servers) if server in servers[:place]]:
            raise ValueError(f"names {twice[0]} twice")
        return urls

    @field_validator("referrals")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            host = name.removeprefix("*.")
            if not host or not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
                raise ValueError(f"holds host names, such as broker2.example.com or *.example.com, not {name!r}")
        return names

    @field_validator("client_id")
    @classmethod
    def _ascii(cls, value: str) -> str:
        # MQTT 5 allows any UTF-8 here; gmqtt counts characters for bytes.
        if not value or not value.isascii() or not value.isprintable():
            raise ValueError("must be printable ASCII, one character at least")
        return value

    @field_validator("username")
    @classmethod
    def _text(cls, value: str) -> str:
        if "\x00" in value:
            raise ValueError("must have no NUL")
        return value

    @property
    def servers(self) -> tuple[Server, ...]:
        """The brokers in the order in which they are tried."""
        return tuple(_server(url) for url in self.urls)


def _server(url: str) -> Server:
    """Read a broker's URL. What is wrong is told without the URL: there may be a password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_URL_RULE) from None
    if "@" in url:
        raise ValueError("a user does not belong into the URL; set broker.username and broker.password_file")
    if parts.scheme not in _PORTS or not parts.netloc or not url.isprintable() or " " in url:
        raise ValueError(_URL_RULE)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("nothing may follow the port")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        raise ValueError("the host is missing, or the port is not 1 to 65535")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError("the host is no name that can be looked up") from None
    return Server(host=parts.hostname, port=port or _PORTS[parts.scheme], is_tls=parts.scheme == "mqtts")


def _a_file(path: Path) -> Path:
    if path.name in {"", "..", *_DIRECTORIES} or "\x00" in str(path):
        raise ValueError("must be the path of a file")
    rest = path.parts[1:] if path.parts[0] in _DIRECTORIES else path.parts
    if any(part.startswith(("$", "~")) for part in rest):
        raise ValueError(f"knows only {' and '.join(_DIRECTORIES)}, at its beginning")
    return path


_File = Annotated[Path, AfterValidator(_a_file)]


class OutboxTable(Table):
    """[outbox]: what is kept until it is delivered, and for how long it counts as fresh. Times are in seconds."""

    path: _File = Path("$STATE_DIRECTORY/outbox.db")
    commit_interval: Seconds = Field(default=0.5, ge=0.01, le=3600)
    fresh_for: Seconds = Field(default=5.0, ge=0.1, le=86_400)
    backlog_share: float = Field(default=0.2, gt=0, lt=1)
    backlog_rate: Bytes = Field(default=0, ge=0, le=2**40)
    compress: bool = False
    confirm: Confirm = Confirm.BROKER


def _table_of(value: object, example: str) -> object:
    """Read a table that is JSON where it comes from a variable."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise ValueError(f"must be a table, and in a variable JSON, {example}") from exc


class DefaultsTable(Table):
    """[ingest.defaults]: how the records are delivered of streams that have no table."""

    delivery: Delivery = Delivery.STORED
    qos: Number = Field(default=1, ge=0, le=2)
    retain: bool = False
    priority: Number = Field(default=5, ge=0, le=9)
    batch: Number = Field(default=1, ge=1, le=500)
    batch_for: Seconds = Field(default=0.0, ge=0, le=3600)
    on_change: Mapping[str, Band] = Field(default_factory=dict)
    heartbeat: Seconds = Field(default=60.0, ge=0, le=86_400)

    @field_validator("on_change", mode="before")
    @classmethod
    def _json_of_a_variable(cls, value: object) -> object:
        return _table_of(value, 'such as {"cpu_percent": 5}')

    @model_validator(mode="after")
    def _qos_of_the_delivery(self) -> Self:
        if self.delivery is Delivery.LIVE:
            if self.qos > 0 and "qos" in self.model_fields_set:
                raise ValueError("qos is 0 where delivery is live")
            object.__setattr__(self, "qos", 0)
        elif self.qos == 0:
            raise ValueError(f"qos 0 cannot keep what delivery {self.delivery.value} promises; set delivery to live")
        return self

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if self.delivery is Delivery.LIVE and self.batch > 1:
            raise ValueError("batch needs delivery stored or synced: of a live stream the newest record goes alone")
        if self.batch_for > 0 and self.batch == 1:
            raise ValueError("batch_for does nothing where batch is 1")
        return self


class StreamTable(DefaultsTable):
    """[streams.NAME]: a source that is read, or how another program's records are delivered."""

    source: str = ""
    options: Mapping[str, Any] = Field(default_factory=dict)
    enabled: bool = True
    interval: Seconds = Field(default=10.0, ge=0.05, le=86_400)
    state: bool = False

    @model_validator(mode="before")
    @classmethod
    def _interval_of_the_source(cls, value: Any) -> Any:  # noqa: ANN401  as it was read
        if isinstance(value, Mapping) and isinstance(source := value.get("source"), str):
            return {"interval": sources.interval(source), **value}
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _json_of_a_variable_too(cls, value: object) -> object:
        return _table_of(value, 'such as {"host": "127.0.0.1"}')

    @model_validator(mode="after")
    def _a_source(self) -> Self:
        if self.source:
            sources.validate(self.source, self.options)
        elif self.options:
            raise ValueError("options are a source's, and there is none: set source")
        return self


class IngestTable(Table):
    """[ingest]: the local socket."""

    socket: _File = Path("$RUNTIME_DIRECTORY/roamd.sock")
    max_line: Bytes = Field(default=64 * 1024, ge=1024, le=16 * 1024 * 1024)
    defaults: DefaultsTable = DefaultsTable()


class HealthTable(Table):
    """[health]: the agent's own figures; an interval of 0 turns them off."""

    interval: Seconds = Field(default=60.0, ge=0, le=86_400)


class ResyncTable(Table):
    """[resync]: what happens right after every connect. Times are in seconds."""

    timeout: Seconds = Field(default=10.0, ge=0.1, le=3600)
    on_timeout: Literal["proceed", "reject"] = "proceed"
    every: Seconds = Field(default=60.0, ge=1, le=86_400)
    remote: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("streams.*.interval",)

    @field_validator("remote")
    @classmethod
    def _known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if not re.fullmatch(r"streams\.[A-Za-z0-9_*-]+\.(interval|delivery)|log\.level", pattern):
                raise ValueError(
                    f"knows streams.NAME.interval, streams.NAME.delivery (NAME may be *) and log.level, not {pattern!r}"
                )
        return patterns


class LogTable(Table):
    """[log]: how much is told."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Table):
    """Everything that can be set."""

    device_id: str
    topics: TopicsTable = TopicsTable()
    broker: BrokerTable = BrokerTable()
    outbox: OutboxTable = OutboxTable()
    streams: Mapping[str, StreamTable] = Field(default_factory=dict)
    ingest: IngestTable = IngestTable()
    commands: CommandsTable = CommandsTable()
    resync: ResyncTable = ResyncTable()
    health: HealthTable = HealthTable()
    log: LogTable = LogTable()

    @property
    def window(self) -> int:
        """Most messages on their way at a time: broker.max_inflight, or less where nothing says what the broker takes.

        MQTT 3.1.1 has no Receive Maximum. A broker such as mosquitto then ends the connection for one QoS 2 message
        more than its own limit, which it does not tell, and goes on to do so after each reconnect.
        """
        most = self.broker.max_inflight
        if self.broker.protocol is not Version.MQTT_3_1_1 or "max_inflight" in self.broker.model_fields_set:
            return most
        has_qos_2 = any(table.qos == _QOS_2 for table in (*self.streams.values(), self.ingest.defaults))
        return min(most, _UNTOLD_WINDOW) if has_qos_2 else most

    @field_validator("device_id")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(NAME_RULE)
        return value

    @field_validator("streams", mode="before")
    @classmethod
    def _with_builtin(cls, value: Any) -> Any:  # noqa: ANN401  as it was read
        if not isinstance(value, Mapping):
            return value
        tables: dict[str, Any] = {name: {"source": name} for name in sources.STARTED}
        for name, table in value.items():
            tables[name] = {**tables.get(name, {}), **table} if isinstance(table, Mapping) else table
        return tables

    @field_validator("streams")
    @classmethod
    def _stream_names(cls, value: Mapping[str, StreamTable]) -> Mapping[str, StreamTable]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(f"stream {name!r} {NAME_RULE}")
        return value

    @model_validator(mode="after")
    def _batches_are_fresh(self) -> Self:
        tables = {f"streams.{name}": table for name, table in self.streams.items()}
        for name, table in {**tables, "ingest.defaults": self.ingest.defaults}.items():
            if table.batch_for >= self.outbox.fresh_for:
                raise ValueError(
                    f"{name}.batch_for ({table.batch_for:g} s) must be below outbox.fresh_for"
                    f" ({self.outbox.fresh_for:g} s), or its batches are never sent as fresh"
                )
        return self
