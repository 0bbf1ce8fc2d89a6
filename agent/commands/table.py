"""What commands there are, and what arguments each takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.arguments import Argument, Arguments, check, schema
from agent.commands.program import Program

BUILTIN: Mapping[str, Arguments] = {
    "ping": {},
    "get_state": {},
    "set_desired": {
        "version": Argument(kind="integer", minimum=0),
        "desired": Argument(kind="object"),
        "received": Argument(kind="object"),
    },
    "replay": {
        "stream": Argument(kind="string", is_required=True),
        "from_ts": Argument(kind="integer", minimum=0),
        "to_ts": Argument(kind="integer", minimum=0),
    },
    "flush": {},
}
"""The arguments of the commands that the agent performs itself (contract, section 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. Without a `program` the agent performs it itself; `idempotent` is run again after a crash."""

    name: str
    arguments: Arguments = field(default_factory=dict, hash=False)
    program: Program | None = None
    idempotent: bool = False

    def check(self, args: Mapping[str, object]) -> dict[str, object]:
        """Return the arguments it runs with, defaults included. Raises ArgumentError, whose text is the reason."""
        return check(self.arguments, args)


class Commands:
    """The commands there are, by their names. Those of the settings come beside the built-in ones."""

    def __init__(self, programs: Iterable[Command], builtin: Mapping[str, Arguments] = BUILTIN) -> None:
        agents = [Command(name=name, arguments=arguments) for name, arguments in builtin.items()]
        self._commands = {command.name: command for command in (*programs, *agents)}

    def get(self, name: str) -> Command | None:
        """Return the command of this name, or None where there is none."""
        return self._commands.get(name)

    def describe(self) -> dict[str, object]:
        """Return for the state document what commands there are, each with the JSON Schema of its `args`."""
        return {name: {"args": schema(command.arguments)} for name, command in sorted(self._commands.items())}
