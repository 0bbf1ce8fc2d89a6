"""The man pages and the shell completions, made from what is there: the parser, config/roamd.toml and packaging/man."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.cli.arguments import parser  # noqa: E402  the path stands above

_SETTING = re.compile(r"# ([a-z_]+) = (.*)")
_EXAMPLE = re.compile(r"#     (.*)")
_TABLE = re.compile(r"\[(.+)\]")


def write(into: Path, *, version: str, date: str) -> None:
    """Write man/roamd.1, man/roamd.service.8, man/roamd.toml.5, completion/roamd (bash) and completion/_roamd (zsh)."""
    (into / "man").mkdir(parents=True)
    (into / "completion").mkdir()
    words = {"@VERSION@": version, "@DATE@": date}
    made = {"@COMMANDS@": commands(), "@SETTINGS@": settings((ROOT / "config/roamd.toml").read_text(encoding="utf-8"))}
    for page in sorted((ROOT / "packaging/man").iterdir()):
        text = page.read_text(encoding="utf-8")
        for word, value in {**words, **made}.items():
            text = text.replace(word, value)
        (into / "man" / page.name).write_text(text, encoding="utf-8")
    (into / "completion/roamd").write_text(bash(), encoding="utf-8")
    (into / "completion/_roamd").write_text(zsh(), encoding="utf-8")


# What the parser knows. argparse has no public way to walk it.


def _commands(of: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield the subcommands: name, help, parser."""
    for action in of._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            yield from ((name, helps.get(name, ""), inner) for name, inner in action.choices.items())


def _all(
    of: argparse.ArgumentParser, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, argparse.ArgumentParser]]:
    for name, text, inner in _commands(of):
        yield (*at, name), text, inner
        yield from _all(inner, (*at, name))


def _options(of: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in of._actions  # noqa: SLF001
        if action.option_strings and action.help is not argparse.SUPPRESS
    ]


def _takes_value(option: argparse.Action) -> bool:
    return option.nargs != 0


# Manual pages: man(7).


def roff(text: str) -> str:
    """Return the text with what roff would take for its own escaped."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def commands() -> str:
    """Return the commands of the parser, each with its options, as a part of roamd(1)."""
    lines: list[str] = []
    for name, text, inner in _all(parser()):
        if any(True for _ in _commands(inner)):
            continue
        lines += [".TP", f".B roamd {roff(' '.join(name))}", f"{roff(_sentence(text))}"]
        for option in _options(inner):
            if option.dest in {"help", "config"}:
                continue
            value = f" \\fI{roff(str(option.metavar or option.dest))}\\fR" if _takes_value(option) else ""
            lines += [".br", f"\\fB{roff(', '.join(option.option_strings))}\\fR{value}:", roff(option.help or "")]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def settings(toml: str) -> str:
    """Return the settings file as a part of roamd.toml(5): its tables as sections, its settings with their defaults."""
    lines: list[str] = []
    for block in toml.split("\n\n"):
        prose: list[str] = []
        for line in block.strip("\n").splitlines():
            if table := _TABLE.fullmatch(line):
                lines += [*_prose(prose), f".SS [{roff(table[1])}]"]
                prose = []
            elif setting := _SETTING.fullmatch(line):
                lines += [".TP", f"\\fB{setting[1]}\\fR = {roff(setting[2])}", *_prose(prose)]
                prose = []
            else:
                prose.append(line)
        if prose:
            lines += [".PP", *_prose(prose)]
    return "\n".join(lines)


def _prose(comments: list[str]) -> Iterator[str]:
    for comment in comments:
        if example := _EXAMPLE.fullmatch(comment):
            yield ".br"
            yield f"\\fI{roff(example[1])}\\fR"
            yield ".br"
        elif comment == "#":
            yield ".PP"
        else:
            yield roff(comment.removeprefix("# "))


# Completions.


def bash() -> str:
    """Return the completion for bash: after the words so far, the next commands and options."""
    cases = [
        f'        "{" ".join(name)}") words="{_words(inner)}" ;;'
        for name, _, inner in [((), "", parser()), *_all(parser())]
    ]
    return "\n".join(
        [
            "# bash completion for roamd: made from its parser.",
            "_roamd() {",
            '    local word path="" words=""',
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            "    COMPREPLY=()",
            '    if [ "$previous" = --config ]; then',
            '        mapfile -t COMPREPLY < <(compgen -f -- "$current")',
            "        return",
            "    fi",
            '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            '        case "$word" in -*) continue ;; esac',
            f'        case " {" ".join(sorted({name[-1] for name, _, _ in _all(parser())}))} " in',
            '            *" $word "*) path="${path:+$path }$word" ;;',
            "        esac",
            "    done",
            '    case "$path" in',
            *cases,
            "    esac",
            '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
            "}",
            "complete -F _roamd roamd",
            "",
        ]
    )


def _words(of: argparse.ArgumentParser) -> str:
    names = [name for name, _, _ in _commands(of)]
    return " ".join([*names, *(option.option_strings[-1] for option in _options(of))])


def zsh() -> str:
    """Return the completion for zsh: a function for each command that has options or commands of its own."""
    lines = ["#compdef roamd", "# Made from roamd's parser.", ""]
    for name, _, inner in [((), "", parser()), *_all(parser())]:
        lines += [*_zsh_function(name, inner), ""]
    return "\n".join([*lines, '_roamd "$@"', ""])


def _zsh_function(name: tuple[str, ...], of: argparse.ArgumentParser) -> Iterator[str]:
    function = "_".join(("_roamd", *name))
    options = " ".join(_zsh_option(option) for option in _options(of))
    inner = list(_commands(of))
    yield f"{function}() {{"
    if not inner:
        yield f"    _arguments {options}"
    else:
        yield "    local context state state_descr line"
        yield "    typeset -A opt_args"
        yield f"    _arguments -C {options} '1: :->command' '*:: :->rest'"
        yield '    case "$state" in'
        described = " ".join(_quoted(f"{command}:{_plain(text)}") for command, text, _ in inner)
        yield f"        command) local -a commands=({described}); _describe command commands ;;"
        yield '        rest) case "$words[1]" in'
        for command, _, _ in inner:
            yield f"            {command}) {function}_{command} ;;"
        yield "        esac ;;"
        yield "    esac"
    yield "}"


def _zsh_option(option: argparse.Action) -> str:
    value = ""
    if _takes_value(option):
        value = ":file:_files" if option.metavar == "FILE" else f":{_plain(str(option.metavar or option.dest))}:"
    return _quoted(f"{option.option_strings[-1]}[{_plain(option.help or '')}]{value}")


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", ";")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
