"""What commands there are, and what arguments each takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.arguments import Argument, ArgumentError, Arguments, check, schema
from agent.commands import program
from agent.commands.program import Program
from agent.model import Outcome

BUILTIN: Mapping[str, Arguments] = {
    "ping": {},
    "get_state": {},
    "set_desired": {
        "version": Argument(kind="integer", minimum=1, is_required=True),
        "desired": Argument(kind="object", is_required=True),
    },
    "replay": {
        "stream": Argument(kind="string", is_required=True),
        "from_ts": Argument(kind="integer", minimum=0),
        "to_ts": Argument(kind="integer", minimum=0),
    },
    "flush": {},
}
"""The arguments of the commands that the agent performs itself (contract, section 5)."""


def refusal(arguments: Arguments, args: Mapping[str, object]) -> str:
    """Return what is wrong with a command's arguments; empty for nothing."""
    try:
        check(arguments, args)
    except ArgumentError as exc:
        return str(exc)
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a program performs; an idempotent one is run again after a crash."""

    name: str
    program: Program
    arguments: Arguments = field(default_factory=dict, hash=False)
    is_idempotent: bool = False
    is_urgent: bool = False

    def refusal(self, args: Mapping[str, object]) -> str:
        """Return what is wrong with the arguments; empty for nothing."""
        return refusal(self.arguments, args)

    async def run(self, args: Mapping[str, object], *, command_id: str) -> Outcome:
        """Run the program, with the defaults of the arguments that are not given."""
        return await program.run(self.program, check(self.arguments, args), command_id=command_id, name=self.name)


def described(commands: Mapping[str, Arguments]) -> dict[str, object]:
    """Return for the state document what commands there are, each with the JSON Schema of its `args`."""
    return {name: {"args": schema(arguments)} for name, arguments in sorted(commands.items())}
