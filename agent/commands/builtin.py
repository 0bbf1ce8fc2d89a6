"""The commands that every agent has (contract, section 5)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent import __version__, clock
from agent.arguments import Arguments
from agent.commands.table import BUILTIN, refusal
from agent.model import Outcome, Status

_URGENT = frozenset({"ping", "get_state"})

Run = Callable[[Mapping[str, Any]], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """A command of the agent's own; all of them may be run again."""

    does: Run
    arguments: Arguments
    is_urgent: bool = False
    is_idempotent: bool = True

    def refusal(self, args: Mapping[str, Any]) -> str:
        """Return what is wrong with the arguments; empty for nothing."""
        return refusal(self.arguments, args)

    async def run(self, args: Mapping[str, Any], *, command_id: str) -> Outcome:  # noqa: ARG002  programs need it
        """Run it."""
        return await self.does(args)


class State(Protocol):
    """What the commands need of the state."""

    def told(self) -> dict[str, object]: ...  # noqa: D102
    def desire(self, version: object, document: object) -> str: ...  # noqa: D102


def builtins(state: State, flush: Callable[[], Awaitable[Mapping[str, object]]]) -> dict[str, Builtin]:
    """Return them by name. `flush` writes everything to the disk, and returns what waits then."""

    async def ping(_args: Mapping[str, Any]) -> Outcome:
        return Outcome(result={"version": __version__, "ts": clock.unix_ms()})

    async def get_state(_args: Mapping[str, Any]) -> Outcome:
        return Outcome(result=state.told())

    async def set_desired(args: Mapping[str, Any]) -> Outcome:
        if why := state.desire(args.get("version"), args.get("desired")):
            return Outcome(status=Status.REJECTED, reason=why)
        return Outcome(result={"desired_version": state.told()["desired_version"]})

    async def flushed(_args: Mapping[str, Any]) -> Outcome:
        return Outcome(result=await flush())

    async def replay(_args: Mapping[str, Any]) -> Outcome:
        return Outcome(status=Status.REJECTED, reason="no delivered records are kept here")

    does = {"ping": ping, "get_state": get_state, "set_desired": set_desired, "flush": flushed, "replay": replay}
    return {
        name: Builtin(does=does[name], arguments=arguments, is_urgent=name in _URGENT)
        for name, arguments in BUILTIN.items()
    }
