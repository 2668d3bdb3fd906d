"""A model that may hold code can compute in its sandbox, and do nothing else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from modelyard.core.errors import Damaged, Invalid, Unavailable
from modelyard.engines.sandbox import ISOLATION, JAIL, Limits, Sandbox

X = np.random.default_rng(0).normal(size=(40, 3))
QUICK = Limits(cpu_seconds=20, memory_bytes=2 << 30, call_seconds=120)


class Pickled:
    """Unpickles by running a text, and becomes the `model` that the text defines."""

    def __init__(self, code: str) -> None:
        self.code = textwrap.dedent(code)

    def __reduce__(self):
        return eval, (f"(lambda names: (exec({self.code!r}, names), names['model'])[1])({{}})",)


def _file(folder: Path, code: str) -> Path:
    (folder / "model.pkl").write_bytes(pickle.dumps(Pickled(code)))
    return folder / "model.pkl"


def _opened(file: Path, hidden: Path, limits: Limits = QUICK) -> Sandbox:
    try:
        return Sandbox(file, format="pickle", hidden=hidden, limits=limits)
    except Unavailable as error:
        pytest.skip(str(error))


TRYING = """
import os, sys
class model:
    @staticmethod
    def predict(rows):
        try:
            return [str({attempt})]
        except BaseException as error:
            return ["refused: " + type(error).__name__]
"""

ATTEMPTS = {
    "a shell": "os.system('echo out > {folder}/out') >> 8",
    "a program": "__import__('subprocess').run(['/bin/sh', '-c', 'true'])",
    "a process": "os.fork()",
    "a TCP socket": "__import__('socket').create_connection(('127.0.0.1', {port}), 2)",
    "a local socket": "__import__('socket').socketpair()",
    "the yard's database": "open('{folder}/yard/yard.db').read()",
    "the yard's folder": "os.listdir('{folder}')",
    "the users of the machine": "open('/etc/passwd').read()",
    "other processes": "os.listdir('/proc/1')",
    "a file of its own": "open('/model/out', 'w')",
    "a file in the system": "open('/usr/x', 'w')",
    "a file in its packages": "open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')",
    "its own bytes, for writing": "open('/model/model.pkl', 'ab')",
    "to be root again": "os.setuid(0)",
    "a namespace": "[] [__import__('ctypes').CDLL(None).unshare(0x10000000)]",
    "a mount": "[] [__import__('ctypes').CDLL(None).mount(b'none', b'/usr', b'tmpfs', 0, None)]",
    "another root": "os.chroot('/usr')",
    "more memory": "__import__('resource').setrlimit(9, (1 << 40, 1 << 40))",
    "memory": "len(bytearray(3 << 30))",
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_model_that_reaches_for_more_is_refused_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "yard").mkdir()
    (tmp_path / "yard" / "yard.db").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        attempt = ATTEMPTS[name].format(folder=tmp_path, port=listening.getsockname()[1])
        file = _file(tmp_path, TRYING.format(attempt=attempt))
        with _opened(file, tmp_path / "yard") as sandbox:
            (found,) = sandbox.predict(X[:1]).predictions
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert str(found).startswith("refused") or (name == "a shell" and found != "0"), found
    assert not (tmp_path / "out").exists()


def test_a_model_computes_as_it_would_outside(tmp_path: Path) -> None:
    fitted = LogisticRegression().fit(X, X[:, 0] > 0)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(fitted))
    with _opened(tmp_path / "m.pkl", tmp_path / "yard") as sandbox:
        assert set(sandbox.isolation) == set(ISOLATION) or os.environ.get("CI") != "true"
        answer = sandbox.predict(X)
        assert answer.predictions.tolist() == fitted.predict(X).tolist()
        assert answer.probabilities.tolist() == fitted.predict_proba(X).tolist()
        with pytest.raises(Invalid, match="3 features"):
            sandbox.predict(X[:, :2])
        assert sandbox.predict(X[:1]).predictions.shape == (1,), "an error of the model does not end it"


def test_a_model_takes_named_columns(tmp_path: Path) -> None:
    file = _file(tmp_path, "class model:\n    predict = staticmethod(lambda frame: frame['a'] + frame['b'])")
    with _opened(file, tmp_path / "yard") as sandbox:
        assert sandbox.predict({"a": [1.0, 2.0], "b": [3.0, 4.0]}).predictions.tolist() == [4.0, 6.0]


@pytest.mark.parametrize(
    ("body", "limits", "told"),
    [
        ("while True: pass", Limits(cpu_seconds=4, memory_bytes=2 << 30, call_seconds=120), "process ended"),
        ("import time; time.sleep(600)", Limits(cpu_seconds=20, memory_bytes=2 << 30, call_seconds=2), "more than 2 s"),
        ("import os; os._exit(0)", QUICK, "process ended"),
        ("import ctypes; ctypes.string_at(0)", QUICK, "process ended"),
        ("import os\n        while True: os.write(FD, b'x' * 4096)", QUICK, "no JSON|too large|more than"),
        ("import os\n        os.write(FD, b'[]\\n')", QUICK, "no JSON object"),
        ("import os\n        os.write(FD, b'{\"predictions\": [[1], 2]}\\n')", QUICK, "no array"),
        ("return [object()]", QUICK, "no plain value"),
        ("raise SystemExit(3)", QUICK, "SystemExit"),
    ],
)
def test_a_model_that_misbehaves_is_stopped_and_told(
    body: str, limits: Limits, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelyard.engines.sandbox.MOST_ANSWER", 1 << 20)
    code = f"""
FD = TARGET
class model:
    @staticmethod
    def predict(rows):
        {body}
"""
    find = """
import os, stat
def _pipes():
    for fd in range(3, 64):
        try:
            mode = os.fstat(fd).st_mode
            os.write(fd, b'')
        except OSError:
            continue
        if stat.S_ISFIFO(mode):
            yield fd
TARGET = next(_pipes())
"""
    with (
        _opened(_file(tmp_path, find + code), tmp_path / "yard", limits) as sandbox,
        pytest.raises((Damaged, Invalid), match=told),
    ):
        sandbox.predict(X[:1])


def test_code_that_runs_while_the_file_is_opened_is_contained_too(tmp_path: Path) -> None:
    file = _file(tmp_path, f"import os\nos.system('touch {tmp_path}/out')\nopen('{tmp_path}/out', 'w')\nmodel = 1")
    with pytest.raises((Invalid, Unavailable), match=r"FileNotFound|PermissionError|cannot keep"):
        Sandbox(file, format="pickle", hidden=tmp_path / "yard", limits=QUICK)
    assert not (tmp_path / "out").exists()


def test_a_model_in_a_place_that_would_show_the_yard_is_not_opened(tmp_path: Path) -> None:
    """What must stay hidden lies here where the interpreter's own files do."""
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(Unavailable, match="cannot keep a model from"):
        Sandbox(tmp_path / "m.pkl", format="pickle", hidden=Path(sys.prefix), limits=QUICK)


def test_isolation_that_is_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(LogisticRegression().fit(X, X[:, 0] > 0)))
    try:
        with Sandbox(
            tmp_path / "m.pkl", format="pickle", hidden=Path(sys.prefix), limits=QUICK, required=("network",)
        ) as sandbox:
            assert "files" not in sandbox.isolation
            assert len(sandbox.predict(X).predictions) == len(X)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists(), reason="needs root"
)
def test_the_isolation_is_the_same_without_privileges() -> None:
    """As nobody, with the system's Python: the jail itself needs no package."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "root").mkdir(mode=0o777)
        (Path(place) / "root").chmod(0o777)
        jail = Path(shutil.copy(JAIL, place))
        (Path(place) / "m.pkl").write_bytes(b"x")
        order = {"root": f"{place}/root", "shown": ["/usr", "/lib", "/lib64"], "model": f"{place}/m.pkl",
                 "hidden": [place], "limits": asdict(QUICK)}  # fmt: skip
        run = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-I", "-B", jail],
            input=json.dumps(order) + "\nfalse\n", capture_output=True, text=True, check=False,
        )  # fmt: skip
    found = json.loads(run.stdout)["isolation"]
    if any("unshare" in one for one in found):
        pytest.skip(f"this kernel gives nobody no namespaces: {found}")
    assert found == list(ISOLATION)
