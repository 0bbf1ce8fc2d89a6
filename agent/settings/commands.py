"""[commands]: what controllers may have done here."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from agent.arguments import Argument, ArgumentError, check_one, is_plain
from agent.commands.program import Program, Stdin, placeholder
from agent.commands.table import BUILTIN, Command
from agent.pattern import Pattern
from agent.settings.table import NAME, NAME_RULE, Table
from agent.settings.units import Bytes, Number, Seconds

_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("ROAMD_COMMAND", "ROAMD_COMMAND_ID")
_OF_TYPES: Mapping[str, tuple[str, ...]] = {
    "enum": ("string", "number", "integer"),
    "minimum": ("number", "integer"),
    "maximum": ("number", "integer"),
    "minLength": ("string",),
    "maxLength": ("string",),
    "pattern": ("string",),
    "items": ("array",),
}


def _json_of_a_variable(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as exc:
        raise ValueError("must be a list or table, and in a variable JSON") from exc


def _limit(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_plain(value):
        raise ValueError("must be a number of at most 64 bits")
    return value


_FromJson = BeforeValidator(_json_of_a_variable)
_Limit = Annotated[int | float, BeforeValidator(_limit)]
_Length = Annotated[Number, Field(ge=0, le=2**31)]


class ArgumentTable(Table):
    """[commands.NAME.args.ARGUMENT]: what it may be, in JSON Schema's words."""

    type: Literal["string", "number", "integer", "boolean", "array", "object"]
    description: str = ""
    required: bool = False
    default: Any = None
    enum: tuple[Any, ...] | None = None
    minimum: _Limit | None = None
    maximum: _Limit | None = None
    minLength: _Length | None = None  # noqa: N815  JSON Schema's name
    maxLength: _Length | None = None  # noqa: N815  as above
    pattern: str | None = None
    items: "ArgumentTable | None" = None

    @field_validator("pattern")
    @classmethod
    def _linear(cls, value: str | None) -> str | None:
        if value is not None:
            Pattern(value)
        return value

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        for keyword, types in _OF_TYPES.items():
            if getattr(self, keyword) is not None and self.type not in types:
                raise ValueError(f"{keyword} goes with type {' or '.join(types)}, not with {self.type}")
        for low, high in (("minimum", "maximum"), ("minLength", "maxLength")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} ({least}) is above {high} ({most})")
        if self.required and self.default is not None:
            raise ValueError("what is required has no default")
        if self.items is not None and (self.items.required or self.items.default is not None):
            raise ValueError("items are never required, and have no default")
        if self.enum == ():
            raise ValueError("enum must have a value")
        if not is_plain(self.description):
            raise ValueError("description must have no NUL")
        self._check("enum", *(self.enum or ()))
        if self.default is not None:
            self._check("default", self.default)
        return self

    def _check(self, name: str, *values: object) -> None:
        for value in values:
            try:
                check_one(name, self.argument, value)
            except ArgumentError as exc:
                raise ValueError(str(exc)) from exc

    @property
    def argument(self) -> Argument:
        """The same, ready to check values."""
        return Argument(
            kind=self.type,
            description=self.description,
            is_required=self.required,
            default=self.default,
            enum=self.enum or (),
            minimum=self.minimum,
            maximum=self.maximum,
            min_length=self.minLength,
            max_length=self.maxLength,
            pattern=None if self.pattern is None else Pattern(self.pattern),
            items=None if self.items is None else self.items.argument,
        )


class CommandTable(Table):
    """[commands.NAME]: a program that is run for a command. Times are in seconds."""

    argv: Annotated[tuple[str, ...], _FromJson]
    timeout: Seconds = Field(default=30.0, ge=0.1, le=7 * 86_400)
    kill_after: Seconds = Field(default=5.0, ge=0.1, le=300)
    idempotent: bool = False
    max_output: Bytes = Field(default=16 * 1024, ge=0, le=1024 * 1024)
    stdin: Stdin = Stdin.JSON
    cwd: str = "/"
    environment: Annotated[Mapping[str, str], _FromJson] = Field(default_factory=dict)
    args: Annotated[Mapping[str, ArgumentTable], _FromJson] = Field(default_factory=dict)

    @field_validator("argv")
    @classmethod
    def _a_program(cls, argv: tuple[str, ...]) -> tuple[str, ...]:
        if not argv or not argv[0]:
            raise ValueError("must name a program")
        if placeholder(argv[0]) is not None:
            raise ValueError("the program itself cannot be an argument of the command")
        if "/" in argv[0] and not argv[0].startswith("/"):
            raise ValueError(f"{argv[0]!r:.100} is neither an absolute path nor the name of a program")
        if any("\0" in part for part in argv):
            raise ValueError("must have no NUL")
        return argv

    @field_validator("cwd")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or "\0" in value:
            raise ValueError("must be the absolute path of a folder")
        return value

    @field_validator("environment")
    @classmethod
    def _variables(cls, variables: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in variables.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r:.100} is no name of a variable")
            if name in _OURS:
                raise ValueError(f"{name} is set by the agent")
            if "\0" in value:
                raise ValueError(f"{name} must have no NUL")
        return variables

    @field_validator("args")
    @classmethod
    def _argument_names(cls, args: Mapping[str, ArgumentTable]) -> Mapping[str, ArgumentTable]:
        for name in args:
            if not _ARGUMENT.fullmatch(name):
                raise ValueError(
                    f"argument {name!r:.100} must be 1 to 64 of A-Z a-z 0-9 _ -, and begin with a letter or _"
                )
        return args

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for part in self.argv[1:]:
            name = placeholder(part)
            if name is not None and name not in self.args:
                raise ValueError(f"argv has {part:.100}, but args has no such argument")
            if name is not None and not self.args[name].required and self.args[name].default is None:
                raise ValueError(f"argv has {part}, so that args.{name} must be required or have a default")
            for inner in self.args if name is None else ():
                if f"{{{inner}}}" in part:
                    raise ValueError(f"argv: {{{inner}}} must stand alone, not in {part!r:.100}")
        if self.stdin is Stdin.NOTHING:
            for name in self.args:
                if f"{{{name}}}" not in self.argv:
                    raise ValueError(f'args.{name} would be lost: argv has no {{{name}}}, and stdin is not "json"')
        return self

    def command(self, name: str) -> Command:
        """Return the command that this table says."""
        return Command(
            name=name,
            arguments={argument: table.argument for argument, table in self.args.items()},
            program=Program(
                argv=self.argv,
                timeout=self.timeout,
                kill_after=self.kill_after,
                max_output=self.max_output,
                stdin=self.stdin,
                environment=self.environment,
                cwd=self.cwd,
            ),
            is_idempotent=self.idempotent,
        )


class CommandsTable(Table):
    """[commands]: how commands are taken, and in tables of their own what there are. Times are in seconds."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, CommandTable] = Field(init=False)

    max_running: Number = Field(default=4, ge=1, le=100)
    max_age: Seconds = Field(default=300.0, ge=1, le=366 * 86_400)
    remember: Seconds = Field(default=7 * 86_400.0, ge=1, le=366 * 86_400)
    qos: Number = Field(default=1, ge=1, le=2)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_command(cls, value: object) -> object:
        if isinstance(value, Mapping):
            raise ValueError("is a setting, so that no command can have this name")  # noqa: TRY004  pydantic's
        return value

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.programs:
            if not NAME.fullmatch(name):
                raise ValueError(f"command {name!r:.100} {NAME_RULE}")
            if name in BUILTIN:
                raise ValueError(f"{name} is built in, so that no program can have this name")
        if self.remember < self.max_age:
            raise ValueError(
                f"remember ({self.remember:g} s) is below max_age ({self.max_age:g} s):"
                " a command that comes twice could run twice"
            )
        return self

    @property
    def programs(self) -> Mapping[str, CommandTable]:
        """The tables of the commands, by their names."""
        return self.__pydantic_extra__

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands that programs of this machine perform."""
        return tuple(table.command(name) for name, table in self.programs.items())
