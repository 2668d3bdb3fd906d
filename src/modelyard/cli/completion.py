"""`modelyard completion bash`: a script that completes every command and option."""

from __future__ import annotations

import sys
from typing import Literal

from modelyard.cli import main


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that completes commands and options. It is static: print it again after an upgrade.

    For bash: modelyard completion bash > ~/.local/share/bash-completion/completions/modelyard
    """
    every = main.build([*main.AREA_HELP, *main.OWN])
    sys.stdout.write(every.generate_completion(prog_name="modelyard", shell=shell))
