"""Completion for zsh's own completion system."""

import re
import shlex

from mmssl.commands.shells.described import Argument, Command, commands, registered_names


def script() -> str:
    """Return the script."""
    from mmssl.config.paths import config_root

    described = commands()
    lines = [
        '        ' + _quoted(f'{_plain(name)}:{_plain(command.help)}')
        for name, command in described.items()
        if ' ' not in name
    ]
    return TEMPLATE % dict(
        commands='\n'.join(lines),
        cases='\n'.join(_case(name, command) for name, command in described.items()),
        root=shlex.quote(str(config_root())),
        names=' '.join(registered_names()),
        nested='\n'.join(_nested_cases(list(described))),
    )


def _case(name: str, command: Command) -> str:
    """Return the branch that completes the arguments of a command."""
    specs = []
    for argument in command.arguments:
        specs += [_option_spec(option, argument) for option in argument.options]
    for position, argument in enumerate(command.positional, 1):
        label = '*' if argument.many else str(position)
        specs.append(_quoted(f'{label}:{_plain(argument.metavar.lower())}:{_action(argument)}'))
    body = ' \\\n                '.join(specs)
    return (
        f'        ({shlex.quote(name)})\n            _arguments -s \\\n                {body}\n            ;;'
    )


def _nested_cases(names: list[str]) -> list[str]:
    """Return the branches of commands with subcommands."""
    cases = []
    for top in dict.fromkeys(name.split()[0] for name in names if ' ' in name):
        below = ' '.join(name.split()[1] for name in names if name.startswith(f'{top} '))
        cases.append(f"""        ({top})
            if (( CURRENT == 2 )); then compadd {below}; return; fi
            command="$command ${{words[2]}}"
            shift words; (( CURRENT-- )) ;;""")
    return cases


def _plain(text: str) -> str:
    """Return the text without the characters that are special in zsh's specifications."""
    text = text.replace('\\', '').replace('[', '(').replace(']', ')').replace(':', ',').replace('`', '')
    return re.sub(r'\s+', ' ', text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _option_spec(option: str, argument: Argument) -> str:
    spec = f'{option}[{_plain(argument.help)}]'
    if argument.type != 'flag':
        many = '*' if argument.many else ''
        spec = f'{many}{spec}:{_plain(argument.metavar.lower())}:{_action(argument)}'
    return _quoted(spec)


def _action(argument: Argument) -> str:
    return {
        'choices': f'({" ".join(argument.choices)})',
        'config': '_mmssl_configs',
        'name': '_mmssl_names',
        'dir': '_files -/',
        'file': '_files',
        'none': ' ',
    }[argument.type]


TEMPLATE = r"""#compdef mmssl
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
        if [[ ${words[CURRENT]} == -* ]]; then
            compadd -- --help --version
        else
            _describe command commands
        fi
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
