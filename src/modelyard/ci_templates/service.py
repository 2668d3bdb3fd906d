"""CI templates: one pipeline, written for GitHub Actions, GitLab CI, Jenkins and Azure Pipelines."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from modelyard.ci_templates.flow import Plan
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, Unavailable, nearest
from modelyard.core.ids import new_id
from modelyard.core.operations import operation


class CISystem(Enum):
    """The CI systems a template can be written for."""

    GITHUB = "github"
    GITLAB = "gitlab"
    JENKINS = "jenkins"
    AZURE = "azure"


class CITemplateGenerator:
    """Writes CI files that lint, validate data, train, gate on metrics, register, ask for promotion and deploy.

    It needs no store; one is accepted, so that it opens like the other areas.
    """

    def __init__(self, store: Any = None) -> None:
        self.store = store

    def close(self) -> None:
        """Nothing to give back."""

    def generate_github_actions(self, model_name: str, python_version: str = "3.12", **options: Any) -> str:
        """The text of .github/workflows/ml-pipeline.yml; `options` as of `generate`."""
        return self.generate(CISystem.GITHUB, model_name, python_version=python_version, **options)

    def generate_gitlab_ci(self, model_name: str, python_version: str = "3.12", **options: Any) -> str:
        """The text of .gitlab-ci.yml; `options` as of `generate`."""
        return self.generate(CISystem.GITLAB, model_name, python_version=python_version, **options)

    def generate_jenkins(self, model_name: str, python_version: str = "3.12", **options: Any) -> str:
        """The text of a Jenkinsfile; `options` as of `generate`."""
        return self.generate(CISystem.JENKINS, model_name, python_version=python_version, **options)

    def generate_azure_pipelines(self, model_name: str, python_version: str = "3.12", **options: Any) -> str:
        """The text of azure-pipelines.yml; `options` as of `generate`."""
        return self.generate(CISystem.AZURE, model_name, python_version=python_version, **options)

    @operation("POST", "/ci-templates/{system}", needs="ci_templates.read")
    def generate(
        self,
        system: CISystem,
        model_name: str,
        *,
        python_version: str = "3.12",
        config: str = "pipeline.yaml",
        package: str = "output/model",
        framework: str = "sklearn",
        branch: str = "main",
        minimum: Mapping[str, float] | None = None,
    ) -> str:
        """The text of one system's pipeline file for a model.

        `config` is the training configuration, `package` the folder that training leaves the model package in (`model`
        in the configuration's output_dir), `framework` what the model is made with; `minimum` maps metrics to what
        they must reach; `branch` is released from. Invalid for a value that would not be safe in a script.

        >>> from modelyard.ci_templates import CISystem, CITemplateGenerator
        >>> CITemplateGenerator().generate(CISystem.JENKINS, "fraud_detector").splitlines()[3]
        'pipeline {'
        """
        plan = Plan(
            model_name=model_name,
            python_version=python_version,
            config=config,
            package=package,
            framework=framework,
            branch=branch,
            minimum=dict(minimum or {}),
        )
        text: str = _module(system).render(plan)
        return text

    @operation("POST", "/ci-templates/{system}/files", needs="ci_templates.write", remote=False)
    def write(
        self, system: CISystem, model_name: str, folder: str | Path = ".", *, python_version: str = "3.12"
    ) -> str:
        """The path of the pipeline file written where the system looks for it under a project's folder.

        Not over HTTP, where the folder would be the server's; `generate` answers with the text.

        >>> from modelyard.ci_templates import CISystem, CITemplateGenerator
        >>> CITemplateGenerator().write(CISystem.GITLAB, "fraud_detector", folder).endswith(".gitlab-ci.yml")
        True
        """
        text = self.generate(system, model_name, python_version=python_version)
        return self.save_template(text, Path(folder) / _module(system).PATH)

    def save_template(self, template: str, path: str | Path) -> str:
        """The path of the written file; folders are made, and the file is there whole or not at all."""
        file = Path(path)
        part = file.with_name(f".{file.name}.{new_id('part')}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as handle:
                handle.write(template)
                handle.flush()
                os.fsync(handle.fileno())
            part.replace(file)
        except OSError as error:
            if part.exists():
                part.unlink()
            raise Unavailable(f"{file} cannot be written: {error.strerror}. Choose a file you may write to.") from error
        return str(file)

    @operation("POST", "/ci-templates/metric-checks", needs="ci_templates.read")
    def check_metrics(self, path: str | Path, *, minimum: dict[str, float] | None = None) -> dict[str, float]:
        """The metrics of a model package or result file, if each in `minimum` reaches its value; Conflict if not.

        The file is JSON with an object `metrics`, such as the modelyard.json of a model package. In a CI job the
        refusal ends the job: the command's exit code is 1.

        >>> from modelyard.ci_templates import CITemplateGenerator
        >>> _ = (folder / "modelyard.json").write_text('{"metrics": {"test_f1_score": 0.91}}')
        >>> CITemplateGenerator().check_metrics(folder / "modelyard.json", minimum={"test_f1_score": 0.9})
        {'test_f1_score': 0.91}
        """
        metrics = _metrics(Path(path))
        short = []
        for name, least in (minimum or {}).items():
            if name not in metrics:
                raise NotFound(f"{path} has no metric {name!r}. {nearest(name, list(metrics))}")
            if not metrics[name] >= least:  # NaN reaches nothing
                short.append(f"{name} is {metrics[name]:g}, less than {least:g}")
        if short:
            raise Conflict(f"The model is refused: {'; '.join(short)}. Improve it, or change the minimum and say why.")
        return metrics


def _module(system: CISystem | str) -> Any:
    known = [member.value for member in CISystem]
    name = system.value if isinstance(system, CISystem) else str(system)
    if name not in known:
        raise Invalid(f"{name!r} is no CI system. {nearest(name, known)}")
    return importlib.import_module(f"modelyard.ci_templates.systems.{name}")


def _metrics(file: Path) -> dict[str, float]:
    """The numbers in a JSON file's `metrics`."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(
            f"{file} cannot be read: {error.strerror}. Train first, or name the model package's modelyard.json."
        ) from error
    except ValueError as error:
        raise Damaged(f"{file} is no JSON: {error}") from error
    metrics = found.get("metrics") if isinstance(found, dict) else None
    if not isinstance(metrics, dict):
        raise Damaged(f"{file} has no object named metrics. Name the modelyard.json of a model package.")
    numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {str(name): float(value) if math.isfinite(value) else math.nan for name, value in numbers.items()}
