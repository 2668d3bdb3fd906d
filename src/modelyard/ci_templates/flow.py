"""The one definition of the pipeline that every CI system's template renders: jobs, steps and commands. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")  # stands unquoted in shell, YAML and Groovy
_PATH = re.compile(r"(?![/-])(?!.*\.\.)[A-Za-z0-9_./-]{1,200}\Z")
_BRANCH = re.compile(r"(?!-)[A-Za-z0-9_./-]{1,100}\Z")
_PYTHON = re.compile(r"3\.(\d{1,2})\Z")
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,60}\Z")
OLDEST_PYTHON = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What differs between projects. Every value is checked, so that it can stand in shell text as it is.

    `config` is the training configuration, `package` the folder that training leaves the model package in (`model` in
    the configuration's output_dir), `framework` what the package's model is made with, `minimum` what each metric must
    reach, and `branch` the branch that releases are made from.
    """

    model_name: str
    python_version: str = "3.12"
    config: str = "pipeline.yaml"
    package: str = "output/model"
    framework: str = "sklearn"
    branch: str = "main"
    minimum: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = (
            ("model_name", self.model_name, _NAME, "letters, digits and _.-, starting with a letter or digit"),
            ("config", self.config, _PATH, "a relative path of letters, digits and _./-, without .."),
            ("package", self.package, _PATH, "a relative path of letters, digits and _./-, without .."),
            ("framework", self.framework, _NAME, "letters, digits and _.-, starting with a letter or digit"),
            ("branch", self.branch, _BRANCH, "letters, digits and _./-"),
        )
        for name, value, pattern, words in checks:
            if not isinstance(value, str) or not pattern.match(value):
                raise Invalid(f"{name} is {value!r}, which is unsafe in a CI script. Use {words}.")
        python = _PYTHON.match(self.python_version) if isinstance(self.python_version, str) else None
        if python is None or int(python[1]) < OLDEST_PYTHON:
            raise Invalid(f'python_version is {self.python_version!r}. Write it as text, "3.11" or newer.')
        for metric, least in self.minimum.items():
            number = isinstance(least, (int, float)) and not isinstance(least, bool) and math.isfinite(least)
            if not _METRIC.match(metric) or not number:
                raise Invalid(f"minimum has {metric!r}: {least!r}. Map metric names such as test_f1_score to numbers.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Shell commands under one title."""

    title: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Steps that run on one machine. `release` jobs run on the release branch only and see the yard's URL;
    a `guarded` job waits for a person. `makes` says that it leaves the model package for later jobs."""

    id: str
    title: str
    steps: tuple[Step, ...]
    needs: str = ""
    release: bool = False
    guarded: bool = False
    makes: bool = False


INSTALL = Step(
    title="Install",
    commands=("python -m pip install --upgrade pip", "python -m pip install -r requirements.txt ruff pytest"),
)


def jobs(plan: Plan) -> tuple[Job, ...]:
    """The pipeline: check, train, release, deploy, each after the one before."""
    return CHECK, _train(plan), _release(plan), _deploy(plan)


CHECK = Job(
    id="check",
    title="Lint and test",
    steps=(Step(title="Lint and test", commands=("python -m ruff check .", "python -m pytest")),),
)


def _train(plan: Plan) -> Job:
    return Job(
        id="train",
        title="Validate data, train and evaluate",
        needs="check",
        makes=True,
        steps=(
            Step(title="Validate data and train", commands=(f"modelyard pipeline run-file {plan.config}",)),
            Step(title="Evaluate", commands=(_gate(plan),)),
        ),
    )


def _release(plan: Plan) -> Job:
    register = (
        f'modelyard registry register-model {plan.model_name} "$MODEL_VERSION" {plan.package}'
        f' --framework {plan.framework} --code-version "$CODE_VERSION"'
    )
    request = (
        f'modelyard registry request-promotion {plan.model_name} "$MODEL_VERSION"'
        ' --target-stage production --justification "tests and metrics passed in CI"'
    )
    return Job(
        id="release",
        title="Register and ask for promotion",
        needs="train",
        release=True,
        steps=(Step(title="Register", commands=(register,)), Step(title="Request promotion", commands=(request,))),
    )


def _deploy(plan: Plan) -> Job:
    start = f'modelyard deployment start {plan.model_name} "$MODEL_VERSION" --strategy canary'
    return Job(
        id="deploy",
        title="Deploy as a canary",
        needs="release",
        release=True,
        guarded=True,
        steps=(
            Step(title="Start the canary", commands=(start,)),
            Step(title="Verify the audit log", commands=("modelyard audit verify",)),
        ),
    )


def _gate(plan: Plan) -> str:
    least = "".join(f" --minimum.{name} {value:g}" for name, value in plan.minimum.items())
    return f"modelyard ci-templates check-metrics {plan.package}/modelyard.json{least}"
