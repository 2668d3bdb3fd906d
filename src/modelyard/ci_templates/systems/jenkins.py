"""Jenkins declarative pipeline: https://www.jenkins.io/doc/book/pipeline/syntax/"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelyard.ci_templates.flow import INSTALL, Job, Plan, Step, jobs

PATH = "Jenkinsfile"


def render(plan: Plan) -> str:
    """The Jenkinsfile. Scripts stand in single quotes, so Groovy puts nothing into them."""
    stages = [_stage(INSTALL, None, plan), *(_stage(step, job, plan) for job in jobs(plan) for step in job.steps)]
    body = [
        f"agent {{ docker {{ image 'python:{plan.python_version}' }} }}",
        *_block("options", ["disableConcurrentBuilds()", "timeout(time: 2, unit: 'HOURS')"]),
        *_block(
            "environment",
            [
                'MODEL_VERSION = "v1.0.${env.BUILD_NUMBER}"',
                'CODE_VERSION = "${env.GIT_COMMIT}"',
                "MODELYARD_USER = 'jenkins'",
            ],
        ),
        *_block("stages", [line for stage in stages for line in stage]),
        *_block(
            "post", _block("always", [f"archiveArtifacts artifacts: '{plan.package}/**', allowEmptyArchive: true"])
        ),
    ]
    comment = (
        f"// Trains, checks, registers and deploys {plan.model_name}.\n"
        "// For a multibranch pipeline. Needs the secret-text credentials modelyard-yard (a database URL) and\n"
        "// modelyard-files (where model files live).\n"
    )
    return comment + "\n".join(_block("pipeline", body)) + "\n"


def _stage(step: Step, job: Job | None, plan: Plan) -> list[str]:
    lines: list[str] = []
    if job is not None and job.release:
        lines += _block("when", ["beforeInput true", f"branch '{plan.branch}'"])
        lines += _block(
            "environment",
            ["MODELYARD_YARD = credentials('modelyard-yard')", "MODELYARD_FILES = credentials('modelyard-files')"],
        )
    if job is not None and job.guarded and step is job.steps[0]:
        lines += _block("input", [f"message 'Deploy {plan.model_name} as a canary?'"])
    first = ("python -m venv .venv",) if step is INSTALL else ()
    lines += _block("steps", _script((*first, ". .venv/bin/activate", *step.commands)))
    return _block(f"stage('{step.title}')", lines)


def _script(commands: Sequence[str]) -> list[str]:
    return ["sh '''", *(f"    {command}" for command in ("set -e", *commands)), "'''"]


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" for line in lines), "}"]
