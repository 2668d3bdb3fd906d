"""GitHub Actions: https://docs.github.com/actions/reference/workflow-syntax-for-github-actions"""

from __future__ import annotations

from typing import Any

from modelyard.ci_templates.documents import document, script
from modelyard.ci_templates.flow import INSTALL, Job, Plan, Step, jobs

PATH = ".github/workflows/ml-pipeline.yml"


def render(plan: Plan) -> str:
    """The workflow file."""
    return document(
        {
            "name": f"{plan.model_name} pipeline",
            "on": {"push": {"branches": [plan.branch]}, "pull_request": {"branches": [plan.branch]}},
            "permissions": {"contents": "read"},
            "concurrency": {"group": "${{ github.workflow }}-${{ github.ref }}", "cancel-in-progress": False},
            "env": {"MODEL_VERSION": "v1.0.${{ github.run_number }}", "CODE_VERSION": "${{ github.sha }}"},
            "jobs": {job.id: _job(job, plan) for job in jobs(plan)},
        },
        (
            f"Trains, checks, registers and deploys {plan.model_name}.",
            "Needs the secret MODELYARD_YARD (a database URL), and MODELYARD_FILES where model files live elsewhere.",
            "Protect the environment `production` with reviewers: the deployment waits for them.",
            "Actions are pinned by major version. Pin them by commit hash if your policy asks for it:",
            "the hash stands on each action's releases page.",
        ),
    )


def _job(job: Job, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"name": job.title, "runs-on": "ubuntu-latest", "timeout-minutes": 60}
    if job.needs:
        found["needs"] = job.needs
    if job.release:
        found["if"] = f"github.event_name == 'push' && github.ref == 'refs/heads/{plan.branch}'"
        secrets = ("MODELYARD_YARD", "MODELYARD_FILES")
        found["env"] = {name: f"${{{{ secrets.{name} }}}}" for name in secrets}
        found["env"]["MODELYARD_USER"] = "${{ github.actor }}"  # who pushed cannot approve
    if job.guarded:
        found["environment"] = "production"
    return {**found, "steps": _steps(job, plan)}


def _steps(job: Job, plan: Plan) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"uses": "actions/checkout@v4", "with": {"persist-credentials": False}},
        {"uses": "actions/setup-python@v5", "with": {"python-version": plan.python_version, "cache": "pip"}},
        _run(INSTALL),
    ]
    if job.release:
        package = {"name": "model-package", "path": plan.package}
        steps.append({"name": "Fetch the model package", "uses": "actions/download-artifact@v4", "with": package})
    steps += [_run(step) for step in job.steps]
    if job.makes:
        package = {"name": "model-package", "path": plan.package, "if-no-files-found": "error"}
        steps.append({"name": "Keep the model package", "uses": "actions/upload-artifact@v4", "with": package})
    return steps


def _run(step: Step) -> dict[str, Any]:
    return {"name": step.title, "run": script(step.commands)}
