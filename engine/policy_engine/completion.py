"""`policy-engine completion SHELL`: a script that lets bash, zsh or fish complete commands, options and their values.

A separate module because it knows shells and nothing of the engine; what there is to complete comes from the parser.
"""

from __future__ import annotations

import argparse
import shlex

from policy_engine.command_tree import Command, commands

SHELLS = ("bash", "zsh", "fish")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for one of `SHELLS`; people put it where their shell looks, or evaluate it."""
    found = list(commands(parser))
    if shell == "fish":
        return _fish(parser.prog, found)
    script = _bash(parser.prog, found)
    if shell == "zsh":
        # zsh runs bash's completions by itself.
        return f"#compdef {parser.prog}\nautoload -Uz +X bashcompinit && bashcompinit\n{script}"
    return script


def _bash(program: str, found: list[Command]) -> str:
    function = "_" + program.replace("-", "_")
    paths = "|".join(shlex.quote(" ".join(one.path)) for one in found if one.path)
    words, values = [], []
    for one in found:
        path = shlex.quote(" ".join(one.path))
        options = " ".join(name for option in one.options for name in option.names)
        names = " ".join([*(name for name, _ in one.commands), *_values(one)])
        words.append(f"    {path}) options={shlex.quote(options)}; names={shlex.quote(names)} ;;")
        for option in one.options:
            choices = shlex.quote(" ".join(option.choices))
            for name in option.names if option.choices else ():
                place = shlex.quote(f"{' '.join(one.path)}:{name}")
                values.append(f"    {place}) values={choices} ;;")
    lines = [
        f"{function}() {{",
        '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local path="" options="" names="" values="" word',
        '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '    case "${path:+$path }$word" in',
        f'    {paths}) path="${{path:+$path }}$word" ;;',
        "    esac",
        "  done",
        '  case "$path" in',
        *words,
        "  esac",
        '  case "$path:$previous" in',
        *values,
        "  esac",
        '  if [ -n "$values" ]; then',
        '    COMPREPLY=($(compgen -W "$values" -- "$current"))',
        '  elif [ "${current:0:1}" = "-" ]; then',
        '    COMPREPLY=($(compgen -W "$options" -- "$current"))',
        '  elif [ -n "$names" ]; then',
        '    COMPREPLY=($(compgen -W "$names" -- "$current"))',
        "  else",
        '    COMPREPLY=($(compgen -f -- "$current"))',
        "  fi",
        "}",
        f"complete -o filenames -F {function} {program}",
    ]
    return "\n".join(lines) + "\n"


def _fish(program: str, found: list[Command]) -> str:
    lines = [f"complete -c {program} -f"]
    for one in found:
        seen = [f"__fish_seen_subcommand_from {name}" for name in one.path]
        below = " ".join(name for name, _ in one.commands)
        if below:
            seen.append(f"not __fish_seen_subcommand_from {below}")
        condition = f" -n {shlex.quote('; and '.join(seen))}" if seen else ""
        lines += [
            f"complete -c {program}{condition} -a {shlex.quote(name)} -d {shlex.quote(text)}"
            for name, text in (*one.commands, *((value, "") for value in _values(one)))
        ]
        for option in one.options:
            names = "".join(
                f" -l {name.removeprefix('--')}" if name.startswith("--") else f" -s {name[1:]}"
                for name in option.names
            )
            argument = f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else " -r -F"
            takes = argument if option.takes else ""
            if names:
                lines.append(f"complete -c {program}{condition}{names}{takes} -d {shlex.quote(option.text)}")
            elif not option.choices:
                lines.append(f"complete -c {program}{condition} -F")
    return "\n".join(lines) + "\n"


def _values(command: Command) -> tuple[str, ...]:
    """Return the words that may stand without an option."""
    return tuple(value for option in command.options if not option.names for value in option.choices)
