"""Scripts that let a shell complete commands, options and their values; made of the same records as the help, so that they know what it tells."""

from __future__ import annotations

from collections.abc import Sequence

from doppelscan.arguments import choices_of
from doppelscan.usage import Command, Option

__all__ = ["completion_script"]


def completion_script(shell: str, commands: Sequence[Command]) -> str:
    """The script of ``shell`` that completes ``doppelscan``; values that are none of a few words are completed as files.

    Args:
        shell: whose language it is in.
        commands: what is completed.
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _spellings(one: Option) -> list[str]:
    return [one.dashed, *([f"--no-{one.dashed[2:]}"] if one.is_flag else [])]


def _named(command: Command) -> list[Option]:
    return [one for one in command.options if not one.by_place]


def _by_place(command: Command) -> list[Option]:
    return [one for one in command.options if one.by_place]


def _bash(commands: Sequence[Command]) -> str:
    names = " ".join(one.name for one in commands)
    values, options, places = [], [], []
    for command in commands:
        own = [spelling for one in _named(command) for spelling in _spellings(one)]
        options.append(f"    {command.name}) words={_quoted(' '.join([*own, '--help']))} ;;")
        valued = [one for one in _named(command) if not one.is_flag]
        values += [
            f'    "{command.name} {one.dashed}") words={_quoted(" ".join(choices_of(one.kind)))}; value=1 ;;' for one in valued
        ]
        first = [" ".join(choices_of(one.kind)) for one in _by_place(command)[:1]]
        places += [f"    {command.name}) places={_quoted(words)}; place=1 ;;" for words in first]
    return "\n".join(
        [
            "# Completion of doppelscan in bash.",
            "_doppelscan() {",
            '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"',
            '  local words="" value="" places="" place=""',
            "  COMPREPLY=()",
            "  # An equals sign is a word of its own to bash.",
            '  if [ "$cur" = "=" ]; then cur=""; elif [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    COMPREPLY=($(compgen -W "{names} --help --version" -- "$cur"))',
            "    return",
            "  fi",
            '  case "$command $prev" in',
            *values,
            "  esac",
            '  case "$command" in',
            *places,
            "  esac",
            '  if [ -z "$value" ] && { [ -z "$place" ] || [[ "$cur" == -* ]]; }; then',
            '    case "$command" in',
            *(f"  {one}" for one in options),
            "    esac",
            '  elif [ -z "$value" ]; then',
            '    words="$places"',
            "  fi",
            '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            "}",
            "complete -o bashdefault -o default -F _doppelscan doppelscan",
        ]
    )


def _zsh(commands: Sequence[Command]) -> str:
    listed = " ".join(_quoted(f"{one.name}:{_short(one.said)}") for one in commands)
    cases = []
    for command in commands:
        words = [_zsh_option(one, spelling) for one in _named(command) for spelling in _spellings(one)]
        words += [_quoted(f"{'' if one.required else ':'}:{one.name}:{_zsh_values(one)}") for one in _by_place(command)]
        cases.append(f"    {command.name}) _arguments {' '.join([*words, _quoted('--help[what it takes]')])} ;;")
    return "\n".join(
        [
            "#compdef doppelscan",
            "_doppelscan() {",
            "  local -a commands",
            "  if (( CURRENT == 2 )); then",
            f"    commands=({listed})",
            "    _describe command commands",
            "    return",
            "  fi",
            "  shift words",
            "  (( CURRENT-- ))",
            "  case $words[1] in",
            *cases,
            "  esac",
            "}",
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }",
            "compdef _doppelscan doppelscan",
        ]
    )


def _zsh_option(one: Option, spelling: str) -> str:
    said = _told(one, spelling).replace("[", "(").replace("]", ")")
    return _quoted(f"{spelling}[{said}]" if one.is_flag else f"{spelling}=[{said}]:{one.name}:{_zsh_values(one)}")


def _zsh_values(one: Option) -> str:
    return f"({' '.join(choices_of(one.kind))})" if choices_of(one.kind) else "_files"


def _fish(commands: Sequence[Command]) -> str:
    lines = [
        "# Completion of doppelscan in fish.",
        "complete -c doppelscan -f -n __fish_use_subcommand -l version -d 'the version'",
    ]
    for command in commands:
        lines.append(f"complete -c doppelscan -f -n __fish_use_subcommand -a {command.name} -d {_quoted(_short(command.said))}")
        seen = f"complete -c doppelscan -n '__fish_seen_subcommand_from {command.name}'"
        for one in _named(command):
            words = " ".join(choices_of(one.kind))
            takes = "" if one.is_flag else f" -x -a {_quoted(words)}" if words else " -r -F"
            lines += [f"{seen} -l {name[2:]}{takes} -d {_quoted(_told(one, name))}" for name in _spellings(one)]
        lines += [f"{seen} -f -a {_quoted(' '.join(choices_of(one.kind)))}" for one in _by_place(command) if choices_of(one.kind)]
    return "\n".join(lines)


def _told(one: Option, spelling: str) -> str:
    return _short(one.said) if spelling == one.dashed else f"not {one.dashed}"


def _short(said: str) -> str:
    """The first part of what is said, without what a shell would read as its own."""
    return said.split(";")[0].split(": ")[0].rstrip(".").replace(":", " ").replace("\\", "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
