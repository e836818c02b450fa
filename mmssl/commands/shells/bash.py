"""Completion for bash 3.2 and later."""

import shlex

from mmssl.commands.shells.described import Argument, commands, registered_names


def script() -> str:
    """Return the script."""
    from mmssl.config.paths import config_root

    described = commands()
    options, values, positions = [], [], []
    for name, command in described.items():
        flags = ' '.join(option for argument in command.arguments for option in argument.options)
        options.append(_case(shlex.quote(name), flags))
        for argument in command.arguments:
            if argument.options and argument.type != 'flag':
                pattern = '|'.join(shlex.quote(f'{name} {option}') for option in argument.options)
                values.append(_case(pattern, _value(argument)))
        for index, argument in enumerate(command.positional):
            pattern = f'{shlex.quote(name)}" "*' if argument.many else shlex.quote(f'{name} {index}')
            positions.append(_case(pattern, _value(argument)))
    return TEMPLATE % dict(
        top=' '.join(dict.fromkeys(name.split()[0] for name in described)),
        nested=' '.join(dict.fromkeys(name.split()[0] for name in described if ' ' in name)),
        root=shlex.quote(str(config_root())),
        names=' '.join(registered_names()),
        options='\n'.join(options),
        values='\n'.join(values),
        positions='\n'.join(positions),
    )


def _case(pattern: str, words: str) -> str:
    return f'        {pattern}) echo {shlex.quote(words)} ;;'


def _value(argument: Argument) -> str:
    """Return what an argument takes: one or many, then its type, with its words if these are fixed."""
    words = f'words {" ".join(argument.choices)}' if argument.type == 'choices' else argument.type
    return f'{"many" if argument.many else "one"} {words}'


TEMPLATE = r"""# completion of mmssl for bash: eval "$(mmssl completion bash)"

_mmssl_options() {
    case "$1" in
%(options)s
    esac
}

# what an option takes: one or many values, then their type
_mmssl_value() {
    case "$1" in
%(values)s
    esac
}

# what the positional argument at an index is
_mmssl_position() {
    case "$1" in
%(positions)s
    esac
}

_mmssl_configs() {
    local root=%(root)s
    if [ -d "$root" ]; then (cd "$root" && find -L . -name '*.py' -not -path '*/_base_/*' | cut -c3-); fi
}

# fill COMPREPLY with words of a type
_mmssl_fill() {
    local cur="$2" line
    COMPREPLY=()
    case "$1" in
        words\ *)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "${1#words }" -- "$cur") ;;
        name)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
                compgen -W '%(names)s' -- "$cur"; compgen -W "$(_mmssl_configs)" -- "$cur") ;;
        config)
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
                compgen -W "$(_mmssl_configs)" -- "$cur"
                compgen -f -X '!*.py' -- "$cur"
                compgen -d -S / -- "$cur")
            # no space after a folder, whose content comes next; bash 3 has no compopt
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
    local cur="${COMP_WORDS[COMP_CWORD]}" command='' position=0 word kind='' number waiting=''
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
                    *) position=$((position + 1)) ;;
                esac ;;
        esac
    done
    if [ -z "$command" ]; then
        case "$cur" in
            -*) _mmssl_fill 'words --help --version' "$cur" ;;
            *) _mmssl_fill 'words %(top)s' "$cur" ;;
        esac
        return 0
    fi
    if [ -n "$waiting" ] && [ "${cur#-}" = "$cur" ]; then
        _mmssl_fill "$kind" "$cur"
        return 0
    fi
    case "$cur" in
        -*) _mmssl_fill "words $(_mmssl_options "$command")" "$cur" ;;
        *) kind="$(_mmssl_position "$command $position")"; _mmssl_fill "${kind#* }" "$cur" ;;
    esac
}

complete -F _mmssl mmssl
"""
