"""GitLab CI/CD: https://docs.gitlab.com/ci/yaml/"""

from __future__ import annotations

from typing import Any

from modelyard.ci_templates.documents import document
from modelyard.ci_templates.flow import INSTALL, Job, Plan, jobs

PATH = ".gitlab-ci.yml"


def render(plan: Plan) -> str:
    """The pipeline file."""
    flow = jobs(plan)
    content: dict[str, Any] = {
        "workflow": {
            "rules": [
                {"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'},
                {"if": f'$CI_COMMIT_BRANCH == "{plan.branch}"'},
            ]
        },
        "stages": [job.id for job in flow],
        "variables": {"MODEL_VERSION": "v1.0.$CI_PIPELINE_IID", "CODE_VERSION": "$CI_COMMIT_SHA"},
        "default": {
            "image": f"python:{plan.python_version}",
            "before_script": list(INSTALL.commands),
            "interruptible": False,
            "timeout": "1 hour",
        },
    }
    content |= {job.id: _job(job, plan) for job in flow}
    return document(
        content,
        (
            f"Trains, checks, registers and deploys {plan.model_name}.",
            "Needs the masked and protected variable MODELYARD_YARD (a database URL), and MODELYARD_FILES where model",
            "files live elsewhere. Protect the environment `production`: the deployment is started by hand.",
        ),
    )


def _job(job: Job, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": job.id}
    if job.needs:
        found["needs"] = [job.needs] if not job.release else sorted({job.needs, "train"})
    if job.release:
        rule: dict[str, Any] = {"if": f'$CI_COMMIT_BRANCH == "{plan.branch}"'}
        found["rules"] = [{**rule, "when": "manual"} if job.guarded else rule]
        found["variables"] = {"MODELYARD_USER": "$GITLAB_USER_LOGIN"}  # who pushed cannot approve
    if job.guarded:
        found["environment"] = {"name": "production"}
    found["script"] = [command for step in job.steps for command in step.commands]
    if job.makes:
        found["artifacts"] = {"paths": [f"{plan.package}/"], "expire_in": "30 days"}
    return found
