"""Completion of what is typed after `vtexp`, for bash, zsh and fish.

`vtexp completion SHELL` prints a script for the shell; the script asks `vtexp complete LINE` for
each completion. Keys of the config are Hydra's own completion.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vtexp.cli import launch
from vtexp.config.compose import dataset_names

BASH = """_vtexp() {
    local line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]} IFS=$'\\n' typed
    typed=${line##*[[:space:]]}
    # bash replaces only what follows the last of COMP_WORDBREAKS, such as =
    [[ $word == [=:] ]] && word=
    local prefix=${typed%"$word"}
    COMPREPLY=($(vtexp complete "$line" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -F _vtexp vtexp
"""
ZSH = """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_vtexp() {
    local -a found open
    found=(${(f)"$(vtexp complete "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"})
    open=(${(M)found:#*[=./]})
    compadd -S '' -- $open
    compadd -- ${found:|open}
}
compdef _vtexp vtexp
"""
FISH = """complete -c vtexp -f -a '(vtexp complete (commandline -cp | string collect) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def print_script(shell: str) -> None:
    """Print the script that a shell evaluates at its start."""
    print(SCRIPTS[shell], end="")


def print_candidates(line: str, commands: list[str]) -> None:
    """Print what the last word of a line, up to the cursor, can become: one candidate a line."""
    _, *words = line.split() or [""]
    if not words or line[-1].isspace():
        words.append("")
    first, last = words[0], words[-1]
    if len(words) == 1:
        _print_starting_with(last, commands)
    elif first == "launch":
        _print_keys(" ".join(words[1:]))
    elif first == "datasets":
        known = ["show"] if len(words) == 2 else dataset_names()
        _print_starting_with(last, known)
    elif first == "completion":
        _print_starting_with(last, list(SCRIPTS))
    elif first != "sweeps":  # which takes a folder
        _print_starting_with(last, [path.name for path in _sweeps()])


def _print_starting_with(start: str, names: list[str]) -> None:
    for name in names:
        if name.startswith(start):
            print(name)


def _sweeps() -> list[Path]:
    folder = Path("outputs")
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _print_keys(line: str) -> None:
    """Hydra's completion of groups and keys; in its form for fish they stand one a line."""
    os.environ["COMP_LINE"] = f"vtexp {line}"
    sys.argv = ["vtexp", "-sc", "query=fish"]
    launch.main()
