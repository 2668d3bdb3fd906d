"""Runs the scenarios against one tracking server with the unmodified MLflow client, and prints what it answered as JSON.

It is run by the Python of MLflow's own environment, never by modelyard's: `python runner.py URI [scenario ...]`.
A scenario is a public function in scenarios/*.py; it gets a Scene and tells it what the client answered.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

# A refusal with a status of 500 is an answer to compare, and not to be asked for seven times more.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from plainness import Normal, plain


class Scene:
    """What a scenario sees: a client, a folder of its own, and `tell` for what is to be compared."""

    def __init__(self, uri: str, folder: Path, name: str) -> None:
        self.uri, self.folder, self.name = uri, folder, name
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.answers: list[list[Any]] = []
        self.normal = Normal({uri: "<server>", str(folder): "<folder>"})

    def unique(self, name: str) -> str:
        """A name that no other scenario uses."""
        return f"{self.name}-{name}"

    def experiment(self, name: str = "experiment", **options: Any) -> str:
        """A new experiment's id, which is written as <experiment n> in the answers."""
        return self.known("experiment", self.client.create_experiment(self.unique(name), **options))

    def known(self, kind: str, identifier: str) -> str:
        """An id that the server chose and that has no telling form."""
        return self.normal.known(kind, identifier)

    def tell(self, label: str, value: Any) -> Any:
        """Write an answer down; the value itself comes back."""
        self.answers.append([self.normal(label), self.normal(plain(value))])
        return value

    def fails(self, label: str, call: Any, *arguments: Any, **options: Any) -> None:
        """Write down how a call is refused: the code and the message."""
        try:
            answer = call(*arguments, **options)
        except MlflowException as error:
            self.answers.append(
                [self.normal(label), {"code": error.error_code, "message": self.normal(str(error.message))}]
            )
        except Exception as error:  # noqa: BLE001 - whatever a client raises is its answer
            self.answers.append(
                [self.normal(label), {"raised": type(error).__name__, "message": self.normal(str(error))}]
            )
        else:
            self.answers.append([self.normal(label), {"answered": self.normal(plain(answer))}])

    def fails_by_code(self, label: str, call: Any, *arguments: Any, **options: Any) -> None:
        """As `fails`, where MLflow's message has a database's or a set's own text in it: the code alone is compared."""
        self.fails(label, call, *arguments, **options)
        self.answers[-1][1].pop("message", None)


def scenarios() -> dict[str, Any]:
    """Every scenario by name, in the order of files and lines."""
    found = {}
    for file in sorted((Path(__file__).parent / "scenarios").glob("*.py")):
        module = importlib.import_module(f"scenarios.{file.stem}")
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{file.stem}.{name}"] = function
    return found


def run(uri: str, name: str, function: Any) -> dict[str, Any]:
    """What one scenario told, how long it took, and the fault that ended it, if one did."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        scene = Scene(uri, Path(folder).resolve(), name.replace("_", "-").replace(".", "-"))
        before = Path.cwd()
        print(name, file=sys.stderr, flush=True)
        os.chdir(folder)
        fault = ""
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                function(scene)
        except Exception:  # noqa: BLE001 - told with the answers so far
            fault = traceback.format_exc(limit=-6)
        finally:
            while mlflow.active_run() is not None:
                mlflow.end_run()
            os.chdir(before)
    return {"answers": scene.answers, "fault": fault, "seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Run the named scenarios, or all."""
    uri, wanted = sys.argv[1], sys.argv[2:]
    known = scenarios()
    out = {name: run(uri, name, known[name]) for name in known if not wanted or name in wanted}
    json.dump(out, sys.stdout, indent=1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(Path(__file__).parent))
    main()
