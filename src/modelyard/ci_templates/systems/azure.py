"""Azure Pipelines: https://learn.microsoft.com/azure/devops/pipelines/yaml-schema"""

from __future__ import annotations

from typing import Any

from modelyard.ci_templates.documents import document, script
from modelyard.ci_templates.flow import INSTALL, Job, Plan, Step, jobs

PATH = "azure-pipelines.yml"
SECRETS = {
    "MODELYARD_YARD": "$(MODELYARD_YARD)",
    "MODELYARD_FILES": "$(MODELYARD_FILES)",
    "MODELYARD_USER": "$(Build.RequestedForEmail)",  # who pushed cannot approve
}


def render(plan: Plan) -> str:
    """The pipeline file."""
    return document(
        {
            "trigger": {"branches": {"include": [plan.branch]}},
            "pr": {"branches": {"include": [plan.branch]}},
            "pool": {"vmImage": "ubuntu-latest"},
            "variables": [
                {"group": "modelyard"},
                {"name": "MODEL_VERSION", "value": "v1.0.$(Build.BuildId)"},
                {"name": "CODE_VERSION", "value": "$(Build.SourceVersion)"},
            ],
            "stages": [_stage(job, plan) for job in jobs(plan)],
        },
        (
            f"Trains, checks, registers and deploys {plan.model_name}.",
            "Needs the variable group `modelyard` with the secrets MODELYARD_YARD (a database URL) and MODELYARD_FILES",
            "(empty, or where model files live). Give the environment `production` an approval: the deployment waits.",
        ),
    )


def _stage(job: Job, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": job.id, "displayName": job.title}
    found["dependsOn"] = [job.needs] if job.needs else []
    if job.release:
        found["condition"] = f"and(succeeded(), eq(variables['Build.SourceBranch'], 'refs/heads/{plan.branch}'))"
    return {**found, "jobs": [_guarded(job, plan) if job.guarded else _plain(job, plan)]}


def _plain(job: Job, plan: Plan) -> dict[str, Any]:
    return {"job": job.id, "timeoutInMinutes": "60", "steps": _steps(job, plan)}


def _guarded(job: Job, plan: Plan) -> dict[str, Any]:
    return {
        "deployment": job.id,
        "timeoutInMinutes": "60",
        "environment": "production",
        "strategy": {"runOnce": {"deploy": {"steps": _steps(job, plan)}}},
    }


def _steps(job: Job, plan: Plan) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"checkout": "self"},  # credentials are not persisted unless asked for
        {"task": "UsePythonVersion@0", "inputs": {"versionSpec": plan.python_version}},
        _run(INSTALL, job),
    ]
    if job.release:
        steps.append(
            {"task": "DownloadPipelineArtifact@2", "inputs": {"artifactName": "model", "targetPath": plan.package}}
        )
    steps += [_run(step, job) for step in job.steps]
    if job.makes:
        steps.append({"publish": plan.package, "artifact": "model"})
    return steps


def _run(step: Step, job: Job) -> dict[str, Any]:
    secrets = {"env": dict(SECRETS)} if job.release and step is not INSTALL else {}
    return {"script": script(("set -e", *step.commands)), "displayName": step.title, **secrets}
