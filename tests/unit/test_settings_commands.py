"""[commands] and the tables of single commands."""

from pathlib import Path

import pytest

from agent.arguments import check
from agent.commands.program import Program, Stdin
from agent.commands.table import BUILTIN
from tests.support.machine import Machine

DOCK = '[commands.dock]\nargv = ["dock"]\n'


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_table_becomes_a_command_with_its_program(machine: Machine) -> None:
    (command,) = machine.settings("""
        [commands.dock]
        argv = ["/opt/dock", "--speed", "{speed}"]
        timeout = "1m"
        kill_after = "500ms"
        max_output = "1KiB"
        idempotent = true
        stdin = ""
        environment = { ROBOT = "7" }
        cwd = "/opt"
        args.speed = { type = "number", maximum = 1.5, default = 1 }
    """).commands.commands
    assert (command.name, command.is_idempotent) == ("dock", True)
    assert command.program == Program(
        argv=("/opt/dock", "--speed", "{speed}"), timeout=60.0, kill_after=0.5, max_output=1024, stdin=Stdin.NOTHING,
        environment={"ROBOT": "7"}, cwd="/opt",
    )  # fmt: skip
    assert check(command.arguments, {}) == {"speed": 1}


def test_what_is_not_set_is_as_a_program_has_it(machine: Machine) -> None:
    (command,) = machine.settings(DOCK).commands.commands
    assert command.program == Program(argv=("dock",))


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_built_in_names_are_taken(machine: Machine, name: str) -> None:
    (line,) = machine.wrong(f'[commands.{name}]\nargv = ["x"]')
    assert line == f"FILE: commands: {name} is built in, so that no program can have this name"


@pytest.mark.parametrize("name", ["max_running", "max_age", "remember", "qos"])
def test_a_setting_is_no_name_of_a_command(machine: Machine, name: str) -> None:
    (line,) = machine.wrong(f'[commands.{name}]\nargv = ["x"]')
    assert line == f"FILE: commands.{name}: is a setting, so that no command can have this name"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 65, "#"])
def test_names_fit_into_topics(machine: Machine, name: str) -> None:
    assert "must be 1 to 64 of" in machine.wrong(f'[commands."{name}"]\nargv = ["x"]')[0]
    assert "a.B-9_" in machine.settings('[commands."a.B-9_"]\nargv = ["x"]').commands.programs


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("commands.max_runing = 3", "unknown key commands.max_runing; did you mean commands.max_running?"),
        ("commands.dock = 3", "unknown key commands.dock; known here: max_age, max_running, qos, remember"),
        ("commands = 3", "commands = 3: must be a table"),
        ("commands.qos = 0", "commands.qos = 0: must be greater than or equal to 1"),
        ("commands.max_running = true", "commands.max_running = True: must be a number"),
        ("[commands]\nremember = '1m'", "commands: remember (60 s) is below max_age (300 s)"),
        ("[commands.dock]", "commands.dock.argv: is missing"),
        (DOCK + "timout = 3", "unknown key commands.dock.timout; did you mean commands.dock.timeout?"),
        (
            DOCK + "args.x = {type='string', typ=3}",
            "unknown key commands.dock.args.x.typ; did you mean commands.dock.args.x.type?",
        ),
        (DOCK + 'args."a b" = {type="string"}', "commands.dock.args: argument 'a b' must be"),
        (DOCK + "kill_after = 0", "commands.dock.kill_after"),
        (DOCK + "stdin = 'text'", "commands.dock.stdin = 'text': must be '' or 'json'"),
        (DOCK + "cwd = 'opt'", "commands.dock.cwd = 'opt': must be the absolute path of a folder"),
        (DOCK + "environment = {'A=B' = 'x'}", "commands.dock.environment: 'A=B' is no name of a variable"),
        (DOCK + "environment = {A = 1}", "commands.dock.environment.A = 1: must be a valid string"),
        (DOCK + "environment = {ROAMD_COMMAND = 'x'}", "commands.dock.environment: ROAMD_COMMAND is set by the agent"),
        (DOCK + 'environment = {A = "a\\u0000b"}', "commands.dock.environment: A must have no NUL"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(machine: Machine, text: str, told: str) -> None:
    assert [line.startswith(f"FILE: {told}") for line in machine.wrong(text)] == [True], machine.wrong(text)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("[]", "must name a program"),
        ('[""]', "must name a program"),
        ('"dock"', "in a variable JSON"),
        ("[1]", "argv.0 = 1: must be a valid string"),
        ('["./dock"]', "'./dock' is neither an absolute path nor the name of a program"),
        ('["{x}"]', "the program itself cannot be an argument"),
        ('["a", "b\\u0000"]', "must have no NUL"),
        ('["a", "{y}"]', "argv has {y}, but args has no such argument"),
        ('["a", "{optional}"]', "so that args.optional must be required or have a default"),
        ('["a", "--x={x}"]', "{x} must stand alone, not in '--x={x}'"),
    ],
)
def test_argv_names_a_program_and_placeholders_stand_alone(machine: Machine, argv: str, told: str) -> None:
    args = '\nargs.x = {type="string", required=true}\nargs.optional = {type="string"}'
    assert told in machine.wrong(f"[commands.dock]\nargv = {argv}{args}")[0]


def test_what_looks_like_a_placeholder_and_is_none_stays(machine: Machine) -> None:
    text = """[commands.dock]\nargv = ["awk", "{print $1}", "{", "{}x"]"""
    assert "args has no such argument" in machine.wrong(text)[0]
    assert machine.settings(text.replace("{print $1}", "x {print}")).commands.programs["dock"].argv[1] == "x {print}"


def test_an_argument_that_would_be_lost_is_an_error(machine: Machine) -> None:
    text = '[commands.dock]\nargv = ["a"]\nstdin = ""\nargs.x = {type="string"}'
    assert 'args.x would be lost: argv has no {x}, and stdin is not "json"' in machine.wrong(text)[0]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("{}", "args.x.type: is missing"),
        ('{type="text"}', "args.x.type = 'text': must be 'string', 'number'"),
        ('{type="string", minimum=1}', "args.x: minimum goes with type number or integer, not with string"),
        ('{type="number", pattern="a"}', "args.x: pattern goes with type string, not with number"),
        ('{type="string", items={type="string"}}', "args.x: items goes with type array, not with string"),
        ('{type="boolean", enum=[true]}', "args.x: enum goes with type string or number or integer"),
        ('{type="string", pattern="(a"}', "args.x.pattern = '(a': has a ( without its )"),
        ('{type="number", minimum=2, maximum=1}', "args.x: minimum (2) is above maximum (1)"),
        ('{type="number", minimum=nan}', "args.x.minimum = nan: must be a number"),
        ('{type="number", maximum="1"}', "args.x.maximum = '1': must be a number"),
        ('{type="string", minLength=-1}', "args.x.minLength = -1: must be greater"),
        ('{type="string", maxLength=true}', "args.x.maxLength = True: must be a number"),
        ('{type="string", enum=[]}', "args.x: enum must have a value"),
        ('{type="string", enum=["a", 1]}', "args.x: enum must be a string"),
        ('{type="string", maxLength=1, enum=["ab"]}', "args.x: enum has 2 characters, more than 1"),
        ('{type="number", maximum=1, default=2}', "args.x: default = 2 is above the maximum, 1"),
        ('{type="array", items={type="integer"}, default=[1.5]}', "args.x: default[0] must be an integer"),
        ('{type="string", required=true, default="a"}', "args.x: what is required has no default"),
        ('{type="array", items={type="string", required=true}}', "args.x: items are never required"),
        ('{type="array", items={type="string", minimum=1}}', "args.x.items: minimum goes with type"),
    ],
)
def test_a_schema_that_says_nothing_or_nonsense_is_an_error(machine: Machine, schema: str, told: str) -> None:
    (line,) = machine.wrong(f"{DOCK}args.x = {schema}")
    assert line.startswith(f"FILE: commands.dock.{told}")


def test_variables_set_and_add_commands_with_json_for_lists_and_tables(machine: Machine) -> None:
    commands = machine.settings(
        DOCK,
        ROAMD_COMMANDS__MAX_RUNNING="9",
        ROAMD_COMMANDS__DOCK__TIMEOUT="2m",
        ROAMD_COMMANDS__UNDOCK__ARGV='["undock", "{x}"]',
        ROAMD_COMMANDS__UNDOCK__ARGS='{"x": {"type": "string", "required": true}}',
        ROAMD_COMMANDS__UNDOCK__ENVIRONMENT='{"A": "1"}',
    ).commands
    assert commands.max_running == 9
    assert commands.programs["dock"].timeout == 120
    assert commands.programs["undock"].args["x"].required
    assert commands.programs["undock"].environment == {"A": "1"}
    (line,) = machine.wrong(DOCK, ROAMD_COMMANDS__DOCK__TIMEOT="1")
    assert line == "ROAMD_COMMANDS__DOCK__TIMEOT: unknown variable; did you mean ROAMD_COMMANDS__DOCK__TIMEOUT?"
    (line,) = machine.wrong(DOCK, ROAMD_COMMANDS__MAX_RUNING="1")
    assert line == "ROAMD_COMMANDS__MAX_RUNING: unknown variable; did you mean ROAMD_COMMANDS__MAX_RUNNING?"
    assert "in a variable JSON" in machine.wrong(DOCK, ROAMD_COMMANDS__DOCK__ARGV="dock")[0]


def test_a_later_file_changes_a_command_key_by_key(machine: Machine) -> None:
    machine.write('[commands.dock]\ntimeout = 5\nargs.y = {type = "string"}', to="conf.d/10.toml")
    dock = machine.settings(DOCK + 'args.x = {type = "string"}').commands.programs["dock"]
    assert (dock.argv, dock.timeout, set(dock.args)) == (("dock",), 5.0, {"y"})
