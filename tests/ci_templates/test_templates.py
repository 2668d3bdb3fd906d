"""Each system's file is valid by that system's schema, runs real commands, and lets nothing unsafe in."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.ci_templates import CISystem, CITemplateGenerator
from modelyard.ci_templates.flow import INSTALL, Plan, jobs
from modelyard.core.operations import operations

SCHEMAS = {
    CISystem.GITHUB: ["vendor.github-workflows"],
    CISystem.GITLAB: ["vendor.gitlab-ci"],
    CISystem.AZURE: ["vendor.azure-pipelines", "--regex-variant", "nonunicode"],
}
GIVEN = {"minimum": {"test_f1_score": 0.8, "test_auc_roc": 0.9}, "branch": "release/2.x", "python_version": "3.13"}


@pytest.fixture
def generator():
    return CITemplateGenerator()


def commands(text):
    """The modelyard commands in a file."""
    return [line.strip().removeprefix("run: ").removeprefix("- ") for line in text.splitlines() if is_command(line)]


def is_command(line):
    return re.match(r"\s*(run: |- )?modelyard ", line) is not None


@pytest.mark.parametrize("system", SCHEMAS, ids=lambda system: system.value)
@pytest.mark.parametrize("options", [{}, GIVEN], ids=["default", "everything given"])
def test_the_file_is_valid_by_the_systems_schema(generator, tmp_path, system, options):
    file = tmp_path / "ci.yml"
    generator.save_template(generator.generate(system, "fraud_detector", **options), file)
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *SCHEMAS[system], str(file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("system", SCHEMAS, ids=lambda system: system.value)
def test_the_schema_check_does_find_faults(tmp_path, generator, system):
    content = yaml.safe_load(generator.generate(system, "fraud_detector"))
    broken = {
        CISystem.GITHUB: lambda: content["jobs"]["check"].pop("runs-on"),
        CISystem.GITLAB: lambda: content["check"].update(script=7),
        CISystem.AZURE: lambda: content["stages"][0].update(jobs=7),
    }
    broken[system]()
    file = tmp_path / "ci.yml"
    file.write_text(yaml.safe_dump(content))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *SCHEMAS[system], str(file)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("system", CISystem, ids=lambda system: system.value)
def test_every_system_runs_the_same_commands_in_the_same_order(generator, system):
    plan = Plan(model_name="fraud_detector")
    expected = [c for job in jobs(plan) for step in job.steps for c in step.commands if c.startswith("modelyard ")]
    assert len(expected) == 6
    assert commands(generator.generate(system, "fraud_detector")) == expected


@pytest.mark.parametrize("options", [{}, GIVEN], ids=["default", "everything given"])
def test_every_command_is_an_operation_and_its_arguments_fit(options):
    from cyclopts import App

    from modelyard.cli.derive import command_of

    known = {(entry.area.replace("_", "-"), entry.verb.replace("_", "-")): entry for entry in operations()}
    plan = Plan(model_name="fraud_detector", **options)
    for job in jobs(plan):
        for step in job.steps:
            for command in step.commands:
                words = shlex.split(command.replace("$MODEL_VERSION", "v1.0.7").replace("$CODE_VERSION", "0" * 40))
                if words[0] != "modelyard":
                    continue
                assert (words[1], words[2]) in known, command
                app = App(name=words[1])
                app.command(command_of(known[words[1], words[2]]), name=words[2])
                app.parse_args(words[2:], exit_on_error=False, print_error=False)  # raises for what does not fit


def test_github_asks_for_no_more_than_it_needs(generator):
    text = generator.generate_github_actions(model_name="fraud_detector")
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    assert set(flow["on"]) == {"push", "pull_request"}  # never pull_request_target
    for name, job in flow["jobs"].items():
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in uses)
        checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout"))
        assert checkout["with"]["persist-credentials"] is False
        assert ("secrets" in json.dumps(job)) == (name in ("release", "deploy"))
        assert all("${{" not in step.get("run", "") for step in job["steps"])
    assert flow["jobs"]["deploy"]["environment"] == "production"
    assert "refs/heads/main" in flow["jobs"]["release"]["if"]


def test_a_person_lets_the_deployment_run_in_every_system(generator):
    gitlab = yaml.safe_load(generator.generate_gitlab_ci("fraud_detector"))
    assert gitlab["deploy"]["rules"][0]["when"] == "manual"
    azure = yaml.safe_load(generator.generate_azure_pipelines("fraud_detector"))
    assert azure["stages"][-1]["jobs"][0]["environment"] == "production"
    jenkins = generator.generate_jenkins("fraud_detector")
    assert jenkins.index("input {") < jenkins.index("modelyard deployment start")


def test_secrets_are_seen_by_release_steps_only(generator):
    azure = yaml.safe_load(generator.generate_azure_pipelines("fraud_detector"))
    assert [("MODELYARD_YARD" in json.dumps(stage)) for stage in azure["stages"]] == [False, False, True, True]
    before, _, after = generator.generate_jenkins("fraud_detector").partition("stage('Register')")
    assert "credentials(" not in before.split("pipeline {")[1]
    assert after.count("credentials('modelyard-yard')") == 4


@pytest.mark.parametrize("options", [{}, GIVEN], ids=["default", "everything given"])
def test_the_jenkinsfile_is_well_formed(generator, options):
    text = generator.generate(CISystem.JENKINS, "fraud_detector", **options)
    code = re.sub(r"//[^\n]*", "", re.sub(r"'''.*?'''", "''", text, flags=re.DOTALL))
    code = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", code)
    depth = 0
    for sign in code:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    assert code.count("(") == code.count(")")
    assert text.count("'''") % 2 == 0
    stages = re.findall(r"stage\('([^']+)'\)", text)
    assert stages == [INSTALL.title, *(step.title for job in jobs(Plan(model_name="m")) for step in job.steps)]
    for script in re.findall(r"'''(.*?)'''", text, flags=re.DOTALL):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "set -e" in script


UNSAFE = ["", "a b", "a;b", "$(id)", "a'b", 'a"b', "a\nb", "`id`", "${{ x }}", "-rf", "a|b", "x" * 101, None, 7, "a\\b"]


@pytest.mark.parametrize("name", [*UNSAFE, "a/b", "é"])
def test_an_unsafe_model_name_is_refused(generator, name):
    with pytest.raises(ValueError, match="model_name"):
        generator.generate_jenkins(model_name=name)


@pytest.mark.parametrize("field", ["config", "package", "branch", "framework"])
@pytest.mark.parametrize("value", [v for v in UNSAFE if v != "x" * 101])
def test_other_unsafe_values_are_refused(generator, field, value):
    with pytest.raises(ValueError, match=field):
        generator.generate(CISystem.GITHUB, "fraud_detector", **{field: value})


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b"])
def test_paths_stay_in_the_project(generator, path):
    with pytest.raises(ValueError, match="config"):
        generator.generate(CISystem.GITHUB, "fraud_detector", config=path)


@pytest.mark.parametrize("version", ["3.1", "2.7", "3.12; id", 3.12, "latest", ""])
def test_a_version_of_python_is_text_and_not_too_old(generator, version):
    with pytest.raises(ValueError, match="python_version"):
        generator.generate_gitlab_ci(model_name="fraud_detector", python_version=version)


@pytest.mark.parametrize("minimum", [{"f1": float("nan")}, {"f1": True}, {"a b": 1}, {"F1": 0.5}, {"f1": "0.9"}])
def test_a_minimum_is_a_named_number(generator, minimum):
    with pytest.raises(ValueError, match="minimum"):
        generator.generate(CISystem.GITHUB, "fraud_detector", minimum=minimum)


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_whatever_name_is_let_in_stands_unchanged_in_shell_and_yaml(name):
    try:
        text = CITemplateGenerator().generate_github_actions(name)
    except ValueError:
        return
    assert shlex.split(name) == [name]
    start = next(c for c in commands(text) if "deployment start" in c)
    assert shlex.split(start)[3] == name


def test_a_misspelt_system_is_answered_with_the_nearest(generator):
    with pytest.raises(ValueError, match="Did you mean github"):
        generator.generate("githb", "fraud_detector")


def test_saving_makes_folders_replaces_whole_and_leaves_nothing_else(generator, tmp_path):
    path = tmp_path / "a" / "b" / "ci.yml"
    generator.save_template("one\n", path)
    assert generator.save_template("two\n", str(path)) == str(path)
    assert path.read_text() == "two\n"
    assert [file.name for file in path.parent.iterdir()] == ["ci.yml"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        generator.save_template("x", tmp_path / "file" / "ci.yml")


@pytest.mark.parametrize("system", CISystem, ids=lambda system: system.value)
def test_the_file_is_written_where_the_system_looks(generator, tmp_path, system):
    path = generator.write(system, "fraud_detector", tmp_path)
    found = {
        CISystem.GITHUB: ".github/workflows/ml-pipeline.yml",
        CISystem.GITLAB: ".gitlab-ci.yml",
        CISystem.JENKINS: "Jenkinsfile",
        CISystem.AZURE: "azure-pipelines.yml",
    }
    assert Path(path) == tmp_path / found[system]


@pytest.mark.parametrize(
    ("minimum", "error", "message"),
    [
        ({"f1": 0.95}, ValueError, "f1 is 0.9, less than 0.95"),
        ({"broken": 0.0}, ValueError, "broken is nan"),
        ({"acu": 0.5}, LookupError, "Did you mean auc"),
    ],
)
def test_the_gate_refuses_a_model_that_falls_short(generator, tmp_path, minimum, error, message):
    (tmp_path / "m.json").write_text('{"metrics": {"f1": 0.9, "auc": 0.8, "broken": NaN}}')
    assert generator.check_metrics(tmp_path / "m.json", minimum={"f1": 0.9, "auc": 0.5})["f1"] == 0.9
    with pytest.raises(error, match=message):
        generator.check_metrics(tmp_path / "m.json", minimum=minimum)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": 3}', "{}"])
def test_a_file_without_metrics_is_named(generator, tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(OSError, match=r"m\.json"):
        generator.check_metrics(tmp_path / "m.json")
    with pytest.raises(LookupError, match="Train first"):
        generator.check_metrics(tmp_path / "none.json")
