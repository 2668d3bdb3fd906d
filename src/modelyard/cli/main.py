"""The entry point: builds only the commands of the area that was asked for, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from modelyard import __version__
from modelyard.core.errors import YardError
from modelyard.core.operations import operations

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

AREA_HELP = {
    "registry": "Versions, stages, approvals and comparison of models.",
    "tracking": "Experiments, runs, metrics, parameters and logged models.",
    "artifacts": "Stored bytes: list, verify, clean up.",
    "audit": "The tamper-evident log: query, verify, prove, export.",
    "features": "The feature store: definitions, values, history, statistics.",
    "pipeline": "Train models in ten stages.",
    "serving": "Endpoints that answer predictions.",
    "deployment": "Roll versions out: direct, shadow, canary, blue-green, rolling.",
    "ab_testing": "Experiments with sound statistics.",
    "monitoring": "Drift, performance and explanations.",
    "governance": "Bias, compliance controls and lineage.",
    "ci_templates": "Pipelines for GitHub, GitLab, Jenkins and Azure.",
    "webhooks": "Tell other systems what happens, by signed messages.",
    "access": "People, services, roles, projects and tokens.",
    "marketplace": "Models shared between teams: listings, access, packages.",
}

OWN = {  # command -> "module:function"
    "demo": "modelyard.cli.demo:demo",
    "serve": "modelyard.cli.serve:serve",
    "doctor": "modelyard.cli.doctor:doctor",
    "config": "modelyard.cli.config:app",
    "compare": "modelyard.cli.compare:compare",
    "export": "modelyard.cli.portable:export",
    "import": "modelyard.cli.portable:importing",
    "completion": "modelyard.cli.completion:completion",
}

MORE = {  # area -> what adds commands that no operation is
    "deployment": "modelyard.cli.rollouts:add",
    "ab_testing": "modelyard.cli.experiments:add",
    "serving": "modelyard.cli.dashboards:add",
}

OWN_HELP = {
    "demo": "Take a real model through its whole life, in about a minute.",
    "serve": "Start the control plane and the serving processes of a yard.",
    "doctor": "Check this machine and this yard, with a fix for each fault.",
    "config": "Show the settings and where each came from.",
    "compare": "Put versions of models side by side, with intervals and a chart.",
    "export": "Write a yard as a folder of plain files.",
    "import": "Bring a yard, or another system's registry, into this yard.",
    "completion": "Print a script that completes commands in bash, zsh or fish.",
}


def build(wanted: Collection[str]) -> App:
    """The app with the subcommands of the areas and commands named; the others by name, so that a misspelt one is told."""
    from cyclopts import App

    app = App(name="modelyard", help=overview(), version=__version__, help_format="plaintext")
    wanted = {word.replace("_", "-") for word in wanted}
    for area, text in AREA_HELP.items():
        name = area.replace("_", "-")
        if name in wanted:
            commands = importlib.import_module("modelyard.cli.derive").area_app(area, name, text)
            if area in MORE:
                module, _, attribute = MORE[area].partition(":")
                getattr(importlib.import_module(module), attribute)(commands)
            app.command(commands)
        else:
            app.command(App(name=name, help=text))
    for name, text in OWN_HELP.items():
        if name in wanted:
            module, _, attribute = OWN[name].partition(":")
            app.command(getattr(importlib.import_module(module), attribute), name=name)
        else:
            app.command(App(name=name, help=text))
    return app


def overview() -> str:
    """The text of `modelyard --help`, written without loading the command-line library."""
    lines = [
        "Usage: modelyard COMMAND [ARGUMENTS]",
        "",
        "One package for the whole life of a machine-learning model.",
        "",
    ]
    lines += ["Start here:", *(f"  {name:<14}{text}" for name, text in OWN_HELP.items())]
    lines += ["", "Areas (each has its own --help):"]
    lines += [f"  {name.replace('_', '-'):<14}{text}" for name, text in AREA_HELP.items()]
    lines += [
        "",
        "Every command takes --yard FOLDER_OR_URL and --format table|json|csv.",
        "modelyard --version shows the version.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 done, 1 refused or failed, 2 misused."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where it is known what to do about a reader who has gone
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed to nobody
        return 0
    except OSError as error:
        sys.stderr.write(f"modelyard: The output cannot be written: {error.strerror}.\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(arguments: list[str]) -> int:
    match arguments:
        case [] | ["--help" | "-h" | "help"]:
            sys.stdout.write(overview())
            return 0
        case ["--version" | "-V" | "version"]:
            sys.stdout.write(f"{__version__}\n")
            return 0
        case ["help", *named]:
            return _called([*named, "--help"])
        case [option, *_] if option.startswith("-"):
            sys.stderr.write(f"modelyard: Options follow the command: modelyard COMMAND {option} ...\n")
            return 2
    return _called(arguments)


def _called(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    try:
        app, area = build(arguments[:1]), arguments[0].replace("-", "_")
        if area in AREA_HELP:
            importlib.import_module("modelyard.cli.derive").refuse_keys(area, arguments[1:])
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        sys.stderr.write(f"modelyard: {_misused(error)} See: {_help_of(arguments)}\n")
        return 2
    except YardError as error:
        sys.stderr.write(f"modelyard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("modelyard: interrupted\n")
        return 130
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # rich ends the program when its reader has gone
            return 0
        raise
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _misused(error: CycloptsError) -> str:
    """What is wrong with the words of a command, in one line."""
    from cyclopts import MissingArgumentError

    argument = getattr(error, "argument", None)
    if (
        isinstance(error, MissingArgumentError)
        and argument is not None
        and not argument.tokens
        and error.keyword is None
    ):
        return f"{' '.join(error.command_chain or ('The command',))} needs {argument.name}, which is not given."
    return " ".join(str(error).split())


def _help_of(arguments: Sequence[str]) -> str:
    """The command that explains what was misused."""
    first = arguments[0]
    if first.replace("-", "_") not in AREA_HELP and first not in OWN:
        return "modelyard --help"
    verbs = [*takewhile(lambda word: not word.startswith("-"), arguments)]
    known = {one.verb.replace("_", "-") for one in operations(first.replace("-", "_"))} if first not in OWN else set()
    known |= {"watch"} if first in ("deployment", "ab-testing") else set()
    return " ".join(["modelyard", first, *(verb for verb in verbs[1:2] if verb in known), "--help"])
