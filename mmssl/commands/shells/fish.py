"""Completion for fish 3."""

from collections.abc import Iterator

from mmssl.commands.shells.described import Argument, Command, commands, registered_names


def script() -> str:
    """Return the script."""
    from mmssl.config.paths import config_root

    described = commands()
    lines = [line for name in described for line in _lines(name, described)]
    head = TEMPLATE % dict(root=_quoted(str(config_root())), names=' '.join(registered_names()))
    return head + '\n'.join(lines) + '\n'


def _lines(name: str, described: dict[str, Command]) -> Iterator[str]:
    """Yield the lines of a command: its name, its positional arguments, its options."""
    command = described[name]
    top, *sub = name.split()
    if sub:
        first = _quoted(f'__mmssl_is {top}; and __mmssl_position 0')
        yield f'complete -c mmssl -n {first} -f -a {sub[0]} -d {_quoted(command.help)}'
        condition = f'__mmssl_is {top}; and __fish_seen_subcommand_from {sub[0]}'
    else:
        yield f'complete -c mmssl -n __fish_use_subcommand -f -a {name} -d {_quoted(command.help)}'
        condition = f'__mmssl_is {name}'
    has_subcommands = any(other.startswith(f'{name} ') for other in described)
    for index, argument in enumerate(command.positional, len(sub)):
        if not (argument.type == 'choices' and has_subcommands):
            position = '' if argument.many else f'; and __mmssl_position {index}'
            yield f'complete -c mmssl -n {_quoted(condition + position)} {_action(argument)}'
    for argument in command.arguments:
        for option in argument.options:
            flag = f'-l {option[2:]}' if option.startswith('--') else f'-s {option[1:]}'
            value = '' if argument.type == 'flag' else f' -r {_action(argument)}'
            yield f'complete -c mmssl -n {_quoted(condition)} {flag}{value} -d {_quoted(argument.help)}'


def _quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


def _action(argument: Argument) -> str:
    return {
        'choices': f'-f -a {_quoted(" ".join(argument.choices))}',
        'config': "-f -a '(__mmssl_configs)'",
        'name': "-f -a '(__mmssl_names)'",
        'dir': "-f -a '(__fish_complete_directories)'",
        'file': '-F',
        'none': '-f',
    }[argument.type]


TEMPLATE = r"""# completion of mmssl for fish: save it as ~/.config/fish/completions/mmssl.fish
complete -c mmssl -e

function __mmssl_is
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test $words[2] = $argv[1]
end

# true if so many words without a dash follow the command
function __mmssl_position
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
