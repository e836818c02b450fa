"""Scripts for shells, made of the commands' own parsers: nothing here has to be kept up when an option is added. Imports nothing heavy.

Configs are looked up when the key is pressed, so that new ones are found; options and registered names are
those of the day of the script.
"""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

CONFIG_NAMES = ('config', 'base', 'diff')
FILE_WORDS = ('FILE', 'PNG', 'PATH', 'IMAGE', 'CHECKPOINT', 'SRC', 'DST')


class Argument(NamedTuple):
    """One argument of a command.

    ``kind`` is 'flag', 'config', 'name', 'dir', 'file', 'none' or 'choices'; ``many`` tells that it takes
    more than one value.
    """

    options: tuple[str, ...]
    kind: str
    choices: tuple[str, ...]
    help: str
    metavar: str
    many: bool


def commands() -> dict[str, tuple[str, list[Argument]]]:
    """Every command, 'visualize curves' too: its line of help and its arguments; 'visualize' has its pictures as choices."""
    from mmssl import cli

    found = {}
    for name in cli.COMMANDS:
        parser = cli.command_parser(name)
        found[name] = (_help_of(name), list(_arguments(parser)))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for choice in action._choices_actions:
                    found[f'{name} {choice.dest}'] = (
                        choice.help or '',
                        list(_arguments(action.choices[choice.dest])),
                    )
    return found


def _help_of(name: str) -> str:
    import importlib

    from mmssl import cli

    return importlib.import_module(cli.COMMANDS[name]).HELP


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        metavar = (
            action.metavar
            if isinstance(action.metavar, str)
            else action.metavar[0]
            if action.metavar
            else action.dest.upper()
        )
        choices = tuple(map(str, action.choices or ()))
        if (
            action.dest == 'family'
        ):  # of convert; what is there is named in its help, since looking at them imports torch
            choices = tuple(
                word for word in re.findall(r'[a-z][a-z0-9-]+', action.help or '') if word != 'or'
            )
        many = action.nargs in ('+', '*') or (isinstance(action.nargs, int) and action.nargs > 1)
        text = (
            (action.help or '') % {'default': action.default}
            if '%(' in (action.help or '')
            else action.help or ''
        )
        yield Argument(
            tuple(action.option_strings),
            'choices' if choices else _kind(action, metavar),
            choices,
            text,
            metavar,
            many,
        )


def _kind(action: argparse.Action, metavar: str) -> str:
    if action.nargs == 0:
        return 'flag'
    if action.dest in CONFIG_NAMES:
        return 'config'
    if action.dest == 'pattern':
        return 'name'
    if 'DIR' in metavar or action.dest.endswith('_dir'):
        return 'dir'
    if metavar in FILE_WORDS or action.dest in ('checkpoint', 'src', 'dst', 'out'):
        return 'file'
    return 'none'


def names() -> list[str]:
    """What ``mmssl list`` finds: registered types, read off the source, since importing them takes seconds."""
    from mmssl.config.paths import PACKAGE

    found = set()
    for path in PACKAGE.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        if '.mim' in path.relative_to(PACKAGE).parts or 'register_module' not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and any(
                isinstance(call, ast.Call) and getattr(call.func, 'attr', '') == 'register_module'
                for call in node.decorator_list
            ):
                found.add(f'mmssl.{node.name}')
    return sorted(found)


def _words(argument: Argument) -> str:
    return ' '.join(argument.choices)


def bash() -> str:
    """For bash 3.2 and later."""
    from mmssl.config.paths import config_root

    every = commands()
    options, kinds, places = [], [], []
    for name, (_, arguments) in every.items():
        flags = ' '.join(option for argument in arguments for option in argument.options)
        options.append(f'        {shlex.quote(name)}) echo {shlex.quote(flags)} ;;')
        for argument in arguments:
            if argument.options and argument.kind != 'flag':
                pattern = '|'.join(shlex.quote(f'{name} {option}') for option in argument.options)
                kinds.append(f'        {pattern}) echo {shlex.quote(_bash_kind(argument))} ;;')
        positional = [argument for argument in arguments if not argument.options]
        for number, argument in enumerate(positional):
            pattern = f'{shlex.quote(name)}" "*' if argument.many else shlex.quote(f'{name} {number}')
            places.append(f'        {pattern}) echo {shlex.quote(_bash_kind(argument))} ;;')
    top = ' '.join(dict.fromkeys(name.split()[0] for name in every))
    nested = ' '.join(dict.fromkeys(name.split()[0] for name in every if ' ' in name))
    return BASH % dict(
        top=top,
        nested=nested,
        root=shlex.quote(str(config_root())),
        names=' '.join(names()),
        options='\n'.join(options),
        kinds='\n'.join(kinds),
        places='\n'.join(places),
    )


def _bash_kind(argument: Argument) -> str:
    words = {'choices': f'words {_words(argument)}'}.get(argument.kind, argument.kind)
    return ('many ' if argument.many else 'one ') + words


BASH = r"""# completion of mmssl for bash: eval "$(mmssl completion bash)"

_mmssl_options() {
    case "$1" in
%(options)s
    esac
}

# what the value of an option is: one or many, then its kind
_mmssl_value() {
    case "$1" in
%(kinds)s
    esac
}

# what the positional argument of a number is
_mmssl_place() {
    case "$1" in
%(places)s
    esac
}

_mmssl_configs() {
    local root=%(root)s
    if [ -d "$root" ]; then (cd "$root" && find -L . -name '*.py' -not -path '*/_base_/*' | cut -c3-); fi
}

# COMPREPLY for a kind
_mmssl_fill() {
    local cur="$2" line
    COMPREPLY=()
    case "$1" in
        words\ *) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "${1#words }" -- "$cur") ;;
        name)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
                compgen -W '%(names)s' -- "$cur"; compgen -W "$(_mmssl_configs)" -- "$cur") ;;
        config)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
                compgen -W "$(_mmssl_configs)" -- "$cur"; compgen -f -X '!*.py' -- "$cur"; compgen -d -S / -- "$cur")
            # a folder is gone into, so no space behind it; bash 3 has no compopt
            case "${#COMPREPLY[@]} ${COMPREPLY[0]}" in '1 '*/) compopt -o nospace 2>/dev/null ;; esac ;;
        dir)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$cur")
            compopt -o filenames 2>/dev/null ;;
        file)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur")
            compopt -o filenames 2>/dev/null ;;
    esac
    return 0
}

_mmssl() {
    local cur="${COMP_WORDS[COMP_CWORD]}" command='' place=0 word kind='' number waiting=''
    for ((number = 1; number < COMP_CWORD; number++)); do
        word="${COMP_WORDS[number]}"
        if [ -z "$command" ]; then
            case "$word" in -*) ;; *) command="$word" ;; esac
            continue
        fi
        case " %(nested)s " in
            *" $command "*) case "$word" in -*) ;; *) command="$command $word"; continue ;; esac ;;
        esac
        case "$word" in
            -*)
                kind="$(_mmssl_value "$command $word")"
                waiting="${kind%%%% *}"; kind="${kind#* }" ;;
            *)
                case "$waiting" in
                    one) waiting='' ;;
                    many) ;;
                    *) place=$((place + 1)) ;;
                esac ;;
        esac
    done
    if [ -z "$command" ]; then
        case "$cur" in -*) _mmssl_fill 'words --help --version' "$cur" ;; *) _mmssl_fill 'words %(top)s' "$cur" ;; esac
        return 0
    fi
    if [ -n "$waiting" ] && [ "${cur#-}" = "$cur" ]; then
        _mmssl_fill "$kind" "$cur"
        return 0
    fi
    case "$cur" in
        -*) _mmssl_fill "words $(_mmssl_options "$command")" "$cur" ;;
        *) kind="$(_mmssl_place "$command $place")"; _mmssl_fill "${kind#* }" "$cur" ;;
    esac
}

complete -F _mmssl mmssl
"""


def zsh() -> str:
    """For zsh's own system of completion."""
    from mmssl.config.paths import config_root

    every = commands()
    lines = []
    for name, (text, _) in every.items():
        if ' ' not in name:
            lines.append(f'        {_zsh_quoted(f"{_zsh_plain(name)}:{_zsh_plain(text)}")}')
    cases = []
    for name, (_, arguments) in every.items():
        specs = []
        number = 0
        for argument in arguments:
            if argument.options:
                specs += [_zsh_option(option, argument) for option in argument.options]
            else:
                number += 1
                place = '*' if argument.many else number
                specs.append(
                    _zsh_quoted(f'{place}:{_zsh_plain(argument.metavar.lower())}:{_zsh_action(argument)}')
                )
        body = ' \\\n                '.join(specs)
        cases.append(
            f'        ({shlex.quote(name)})\n            _arguments -s \\\n                {body}\n            ;;'
        )
    nested = []
    for name in dict.fromkeys(name.split()[0] for name in every if ' ' in name):
        below = ' '.join(other.split()[1] for other in every if other.startswith(f'{name} '))
        nested.append(f"""        ({name})
            if (( CURRENT == 2 )); then compadd {below}; return; fi
            command="$command ${{words[2]}}"
            shift words; (( CURRENT-- )) ;;""")
    return ZSH % dict(
        commands='\n'.join(lines),
        cases='\n'.join(cases),
        root=shlex.quote(str(config_root())),
        names=' '.join(names()),
        nested='\n'.join(nested),
    )


def _zsh_plain(text: str) -> str:
    """Text without the characters that zsh's specifications take for their own."""
    return re.sub(
        r'\s+',
        ' ',
        text.replace('\\', '').replace('[', '(').replace(']', ')').replace(':', ',').replace('`', ''),
    )


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_option(option: str, argument: Argument) -> str:
    spec = f'{option}[{_zsh_plain(argument.help)}]'
    if argument.kind != 'flag':
        spec = f'{"*" if argument.many else ""}{spec}:{_zsh_plain(argument.metavar.lower())}:{_zsh_action(argument)}'
    return _zsh_quoted(spec)


def _zsh_action(argument: Argument) -> str:
    return {
        'choices': f'({_words(argument)})',
        'config': '_mmssl_configs',
        'name': '_mmssl_names',
        'dir': '_files -/',
        'file': '_files',
        'none': ' ',
    }[argument.kind]


ZSH = r"""#compdef mmssl
# completion of mmssl for zsh: save it as _mmssl in a folder of $fpath, before compinit is called

_mmssl_configs() {
    local root=%(root)s
    local -a found
    found=(${root}/**/*.py(N-.))
    found=(${${found#${root}/}:#*_base_*})
    compadd -a found
    _files -g '*.py'
}

_mmssl_names() {
    compadd %(names)s
    _mmssl_configs
}

_mmssl_arguments() {
    local curcontext="$curcontext" state
    case "$1" in
%(cases)s
    esac
}

_mmssl() {
    local -a commands
    commands=(
%(commands)s
    )
    if (( CURRENT == 2 )); then
        if [[ ${words[CURRENT]} == -* ]]; then compadd -- --help --version; else _describe command commands; fi
        return
    fi
    local command=${words[2]}
    shift words; (( CURRENT-- ))
    case "$command" in
%(nested)s
    esac
    _mmssl_arguments "$command"
}

if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then _mmssl "$@"; else compdef _mmssl mmssl; fi
"""


def fish() -> str:
    """For fish 3."""
    from mmssl.config.paths import config_root

    every = commands()
    quoted = _fish_quoted
    lines = []
    for name, (text, arguments) in every.items():
        parts = name.split()
        if len(parts) == 1:
            lines.append(f'complete -c mmssl -n __fish_use_subcommand -f -a {name} -d {quoted(text)}')
            seen = f'__mmssl_is {name}'
        else:
            lines.append(
                f'complete -c mmssl -n {quoted(f"__mmssl_is {parts[0]}; and __mmssl_place 0")} -f -a {parts[1]} -d {quoted(text)}'
            )
            seen = f'__mmssl_is {parts[0]}; and __fish_seen_subcommand_from {parts[1]}'
        positional = [argument for argument in arguments if not argument.options]
        for number, argument in enumerate(positional):
            if argument.kind == 'choices' and any(other.startswith(f'{name} ') for other in every):
                continue
            place = number + len(parts) - 1
            test = seen + ('' if argument.many else f'; and __mmssl_place {place}')
            lines.append(f'complete -c mmssl -n {quoted(test)} {_fish_action(argument)}')
        for argument in arguments:
            for option in argument.options:
                flag = f'-l {option[2:]}' if option.startswith('--') else f'-s {option[1:]}'
                value = '' if argument.kind == 'flag' else f' -r {_fish_action(argument)}'
                lines.append(f'complete -c mmssl -n {quoted(seen)} {flag}{value} -d {quoted(argument.help)}')
    return FISH % dict(root=quoted(str(config_root())), names=' '.join(names())) + '\n'.join(lines) + '\n'


def _fish_quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


def _fish_action(argument: Argument) -> str:
    return {
        'choices': f'-f -a {_fish_quoted(_words(argument))}',
        'config': "-f -a '(__mmssl_configs)'",
        'name': "-f -a '(__mmssl_names)'",
        'dir': "-f -a '(__fish_complete_directories)'",
        'file': '-F',
        'none': '-f',
    }[argument.kind]


FISH = r"""# completion of mmssl for fish: save it as ~/.config/fish/completions/mmssl.fish
complete -c mmssl -e

function __mmssl_is
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test $words[2] = $argv[1]
end

# whether so many words without a dash stand behind the command
function __mmssl_place
    set -l words (commandline -opc)
    set -e words[1..2]
    test (count (string match -v -- '-*' $words)) -eq $argv[1]
end

function __mmssl_configs
    set -l root %(root)s
    for file in $root/*.py $root/**/*.py
        string match -q '*_base_*' $file; or string replace -- $root/ '' $file
    end
    __fish_complete_suffix .py
end

function __mmssl_names
    printf '%%s\n' %(names)s
    __mmssl_configs
end

complete -c mmssl -n __fish_use_subcommand -f
complete -c mmssl -n __fish_use_subcommand -l version -d 'print the version'
complete -c mmssl -n __fish_use_subcommand -l help -s h -d 'print the commands'
"""
