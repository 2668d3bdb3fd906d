"""The command line: fast, exact about misuse, data on stdout and words on stderr."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard import __version__
from modelyard.cli.main import AREA_HELP, main

PROGRAM = [sys.executable, "-m", "modelyard"]


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")} | environment
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, cwd=folder, env=env, check=False)


def test_help_names_every_area_and_loads_no_library(tmp_path: Path) -> None:
    script = (
        "import sys; from modelyard.cli.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert all(area.replace("_", "-") in done.stdout for area in AREA_HELP)
    assert not {"cyclopts", "rich", "numpy", "pandas", "sqlalchemy", "fastapi"} & set(eval(done.stderr))


def test_help_fits_a_terminal_and_shows_no_docstring_as_it_was_broken(tmp_path: Path) -> None:
    for words in (["--help"], ["serve", "--help"]):
        lines = run(*words, folder=tmp_path, COLUMNS="80").stdout.splitlines()
        assert lines
        assert max(map(len, lines)) <= 80, words
    told = run("access", "create-token", "--help", folder=tmp_path, COLUMNS="80").stdout
    assert "With `role` the subject is given the role in the" in told, "the docstring breaks its lines elsewhere"
    assert "--empty-" not in told


@pytest.mark.parametrize("words", [["help"], ["-h"], ["help", "access"], ["help", "access", "roles"]])
def test_help_is_asked_for_in_any_way(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    done = capsys.readouterr()
    assert done.err == ""
    assert done.out.startswith("Usage: modelyard ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["acces", "roles"], ["Did you mean", "modelyard --help"]),
        (["access", "role"], ["Did you mean", "modelyard access --help"]),
        (["access", "create-token"], ["subject", "modelyard access create-token --help"]),
        (["access", "create-token", "ann", "--days", "soon"], ["--days", "soon"]),
        (["ab-testing", "nonsense"], ["modelyard ab-testing --help"]),
        (["doctor", "more"], ["more", "modelyard doctor --help"]),
        (["--yard", "x", "registry"], ["Options follow the command"]),
        (["serve", "--port", "99999"], ["99999", "65534"]),
        (["serve", "--port", "-1"], ["-1"]),
        (["serve", "--workers", "0"], ["--workers 1"]),
        (["registry", "list-models", "--format", "cvs"], ["cvs", "table, json or csv"]),
    ],
)
def test_misuse_is_one_line_that_says_where_to_look(
    words: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("modelyard: ")
    assert done.err.count("\n") == 1
    assert [part for part in told if part not in done.err] == []
    assert list(tmp_path.iterdir()) == [], "nothing was done"


@pytest.mark.parametrize("words", [["--help"], ["access", "--help"], ["access", "roles"], ["config", "show"]])
def test_a_reader_who_has_gone_is_no_fault_and_a_full_disk_is_told(words: list[str], tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    reading, writing = os.pipe()
    os.close(reading)
    gone = subprocess.run(
        [*PROGRAM, *words], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, env=env, check=False
    )
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (0, b"")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, env=env, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"modelyard: The output cannot be written: No space left on device.\n"


def test_completion_knows_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "fish", "bash"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        for word in ("registry", "ab-testing", "create-token", "tls-cert", "mlflow"):
            assert word in script, (shell, word)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_setting_that_is_no_number_is_named_with_its_origin(tmp_path: Path) -> None:
    done = run("serve", folder=tmp_path, MODELYARD_PORT="http")
    assert (done.returncode, done.stderr) == (
        2,
        "modelyard: The setting port is a number, and not 'http' (environment).\n",
    )
    checks = json.loads(run("doctor", folder=tmp_path, MODELYARD_PORT="http").stdout)
    assert [check["state"] for check in checks if check["check"] == "port"] == ["fault"]


def test_no_rows_are_no_csv(tmp_path: Path) -> None:
    done = run("registry", "list-models", "--format", "csv", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_settings_and_checks_are_shown_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    for words, part in ((["config", "show"], "webhook_hosts"), (["doctor"], "fix")):
        done = run(*words, "--format", "table", folder=tmp_path, COLUMNS="80")
        assert part in done.stdout
        assert "…" not in done.stdout
        assert "Not shown" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["registry", "nonsense"], ["registry", "get-model"], ["config", "show", "--nope"]]
)
def test_misuse_exits_with_2_and_says_so_on_stderr(words: list[str], tmp_path: Path) -> None:
    done = run(*words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_refusal_exits_with_1_and_one_line(tmp_path: Path) -> None:
    done = run("registry", "get-model", "fraud", "v1.0.0", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("modelyard: ")
    assert "fraud" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_prints_one_json_document_when_piped(tmp_path: Path, small_model: Path) -> None:
    done = run(
        "registry", "register-model", "fraud", "v1.0.0", str(small_model), "--framework", "lightgbm", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "v1.0.0"
    listed = run("registry", "list-models", "--format", "csv", folder=tmp_path)
    assert listed.stdout.splitlines()[1].startswith("fraud,v1.0.0")


def test_settings_come_from_flag_then_environment_then_file(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text('yard = "from-file"\nport = 9999\n')
    shown = json.loads(run("config", "show", "--origin", folder=tmp_path, MODELYARD_YARD="from-env").stdout)
    found = {row["setting"]: (row["value"], row["origin"]) for row in shown}
    assert found["yard"] == ("from-env", "environment")
    assert found["port"] == ("9999", str(tmp_path / "modelyard.toml"))
    assert found["host"][1] == "default"


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text('yrad = "x"\n')
    done = run("config", "show", folder=tmp_path)
    assert done.returncode == 2
    assert "yrad" in done.stderr
    assert "yard" in done.stderr


def test_doctor_finds_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "yard").mkdir()
    (tmp_path / "yard" / "modelyard.db").write_bytes(b"this is no database" * 1000)
    done = run("doctor", folder=tmp_path)
    faults = [check for check in json.loads(done.stdout) if check["state"] == "fault"]
    assert done.returncode == 1
    assert [check["check"] for check in faults] == ["yard"]
    assert "damaged" in faults[0]["finding"]


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(
        "registry", "list-models", folder=tmp_path, MODELYARD_URL="http://127.0.0.1:9", MODELYARD_TOKEN="@nowhere"
    )
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    done = run("registry", "list-models", folder=tmp_path, MODELYARD_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "http://127.0.0.1:9" in done.stderr
    assert "modelyard serve" in done.stderr
    assert not (tmp_path / "yard").exists()


def test_a_command_loads_only_what_it_uses(tmp_path: Path) -> None:
    script = "import sys; from modelyard.cli.main import main; main(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", script, "registry", "list-models", "--yard", str(tmp_path / "yard")]
    subprocess.run(command, capture_output=True, text=True, check=True)  # the schema is made with Alembic, once
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy = {
        "numpy",
        "pandas",
        "scipy",
        "sklearn",
        "sqlalchemy",
        "alembic",
        "fastapi",
        "uvicorn",
        "duckdb",
        "onnxruntime",
        "httpx",
    }
    assert not heavy & set(eval(done.stderr))


def test_the_demo_tells_at_once_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", "--port", str(port), folder=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
