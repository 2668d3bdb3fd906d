"""A running MLflow server, read through its REST interface."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import httpx

from modelyard.core.errors import Forbidden, Invalid, NotFound, Unavailable
from modelyard.portable.mlflow import answers
from modelyard.portable.mlflow.values import FoundFile, FoundModel, FoundVersion
from modelyard.tracking import Experiment, LoggedModel, Run
from modelyard.tracking.values import Point

API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = httpx.Timeout(120.0, connect=15.0)
PARALLEL = 8
ATTEMPTS = 3
RUNS, MODELS, VALUES = 500, 100, 10_000  # of one page
OURS = "mlflow-artifacts"


class Server:
    """An MLflow server at an http(s) address. Redirects are not followed: a password goes to this host and no other."""

    parallel = PARALLEL

    def __init__(self, address: str, environment: Mapping[str, str] = os.environ) -> None:
        parts = urlsplit(address)
        if parts.username or parts.password:
            raise Invalid(
                "The address holds a password, which would end up in logs. Set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            )
        self.place = address.rstrip("/")
        self._host = parts.netloc
        token, name = environment.get("MLFLOW_TRACKING_TOKEN"), environment.get("MLFLOW_TRACKING_USERNAME")
        self._http = httpx.Client(
            base_url=self.place,
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=(name, environment.get("MLFLOW_TRACKING_PASSWORD", "")) if name and not token else None,
            limits=httpx.Limits(max_connections=PARALLEL * 2),
        )

    def close(self) -> None:
        """Give connections back."""
        self._http.close()

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment, deleted ones too."""
        asked = {"view_type": "ALL", "max_results": 1000}
        for one in self._pages("POST", "/experiments/search", "experiments", asked):
            yield answers.experiment(one)

    def runs(self, experiment_id: str) -> Iterator[Run]:
        """The runs of an experiment, deleted ones too."""
        asked = {"experiment_ids": [experiment_id], "run_view_type": "ALL", "max_results": RUNS}
        for one in self._pages("POST", "/runs/search", "runs", asked):
            yield answers.run(one)

    def whole(self, run: Run) -> Run:
        """The run with the logged models that it used, which MLflow leaves out when it lists runs."""
        return answers.run(self._ask("GET", "/runs/get", {"run_id": run.run_id})["run"])

    def history(self, run: Run, key: str) -> Iterator[list[Point]]:
        """Every value of a metric, a page at a time."""
        asked: dict[str, Any] = {"run_id": run.run_id, "metric_key": key, "max_results": VALUES}
        while True:
            told = self._ask("GET", "/metrics/get-history", asked)
            found = [answers.metric(one) for one in told.get("metrics") or ()]
            yield [(one.key, one.value, one.timestamp, one.step) for one in found]
            if not told.get("next_page_token"):
                return
            asked["page_token"] = told["next_page_token"]

    def logged_models(self, experiment_id: str) -> Iterator[LoggedModel]:
        """The logged models of an experiment; none from a server that knows no logged models."""
        asked = {"experiment_ids": [experiment_id], "max_results": 50}
        try:
            for one in self._pages("POST", "/logged-models/search", "models", asked):
                yield answers.logged_model(one)
        except NotFound:  # before MLflow 3
            return

    def models(self) -> Iterator[FoundModel]:
        """The registered models."""
        for one in self._pages("GET", "/registered-models/search", "registered_models", {"max_results": MODELS}):
            yield answers.registered_model(one)

    def versions(self, name: str) -> Iterator[FoundVersion]:
        """The versions of a registered model, the oldest first."""
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        asked = {"filter": f"name='{quoted}'", "max_results": 1000}
        found = [answers.version(one) for one in self._pages("GET", "/model-versions/search", "model_versions", asked)]
        yield from sorted((one for one in found if one.name == name), key=lambda one: one.number)

    def files(self, location: str, inner: str) -> Iterator[FoundFile] | None:
        """What the server has at a location, through its artifact proxy or from its own disk; None for other stores."""
        path = self._path(location)
        if path is not None:
            return self._below(FILES, "path", {}, path, "")
        if urlsplit(location).scheme not in ("", "file"):
            return None
        kind, of = _owner(inner)
        if kind == "run":
            return self._below(f"{API}/artifacts/list", "path", {"run_id": of}, "", "")
        return self._below(f"{API}/logged-models/{of}/artifacts/directories", "artifact_directory_path", {}, "", "")

    @contextmanager
    def open(self, location: str, inner: str, path: str) -> Iterator[BinaryIO]:
        """A file's bytes as they come."""
        proxied = self._path(location)
        kind, of = _owner(inner)
        asked: dict[str, str] = {}
        if proxied is not None:
            target = f"{FILES}/{quote(f'{proxied}/{path}')}"
        elif kind == "run":
            target, asked = "/get-artifact", {"path": path, "run_uuid": of}
        else:
            target = f"/ajax-api/2.0/mlflow/logged-models/{of}/artifacts/files"
            asked = {"artifact_file_path": path}
        try:
            with self._http.stream("GET", target, params=asked) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise self._refusal(answer)
                yield io.BufferedReader(_Body(answer.iter_bytes(1 << 20)), 1 << 20)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{self.place} broke off while {path} was read: {error}. Import again to go on."
            ) from error

    def _path(self, location: str) -> str | None:
        parts = urlsplit(location)
        if parts.scheme != OURS or parts.netloc not in ("", self._host):
            return None
        return parts.path.strip("/")

    def _below(self, listing: str, field: str, more: Mapping[str, str], root: str, inner: str) -> Iterator[FoundFile]:
        """The files in a folder of a listing and below, their paths told from `root`."""
        path = "/".join(part for part in (root, inner) if part)
        for one in self._pages("GET", listing, "files", {**more, **({field: path} if path else {})}, api=""):
            name = str(one["path"]).rstrip("/").rpartition("/")[2]
            found = f"{inner}/{name}" if inner else name
            if one.get("is_dir"):
                yield from self._below(listing, field, more, root, found)
            else:
                yield FoundFile(found, int(one.get("file_size") or 0))

    def _pages(
        self, method: str, path: str, field: str, asked: Mapping[str, Any], *, api: str = API
    ) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            told = self._ask(method, path, {**asked, **({"page_token": token} if token else {})}, api=api)
            yield from chain(told.get(field) or ())
            before, token = token, str(told.get("next_page_token") or "")
            if not token:
                return
            if token == before:
                raise Unavailable(f"{self.place} answers {path} with the same page for ever. Is it an MLflow server?")

    def _ask(self, method: str, path: str, asked: Mapping[str, Any], *, api: str = API) -> dict[str, Any]:
        sent: dict[str, Any] = {"params": asked} if method == "GET" else {"json": asked}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._http.request(method, f"{api}{path}", **sent)
            except httpx.HTTPError as error:
                if attempt < ATTEMPTS:
                    continue
                raise Unavailable(
                    f"{self.place} cannot be asked: {error or type(error).__name__}. See that it runs; import again to go on."
                ) from error
            if answer.status_code >= 500 and attempt < ATTEMPTS:
                continue
            break
        if answer.status_code != httpx.codes.OK:
            raise self._refusal(answer)
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise Invalid(f"{self.place} does not answer as an MLflow server does. Name the tracking server's address.")
        return told

    def _refusal(self, answer: httpx.Response) -> Exception:
        path = answer.request.url.path
        if answer.status_code in (401, 403):
            return Forbidden(
                f"{self.place} refuses to tell ({answer.status_code}). Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, of somebody who may read everything."
            )
        if answer.is_redirect:
            return Unavailable(
                f"{self.place} sends to {answer.headers.get('location', 'elsewhere')!r:.200}; an import follows nobody. "
                "Name that address itself."
            )
        if answer.status_code == httpx.codes.NOT_FOUND:
            return NotFound(f"{self.place} has no {path}. Is it an MLflow server?")
        return Unavailable(f"{self.place} answers {path} with {answer.status_code}: {answer.text[:300]}")


def _owner(inner: str) -> tuple[str, str]:
    """Whose files lie at a place of MLflow's layout: EXPERIMENT/RUN/artifacts or EXPERIMENT/models/MODEL/artifacts.

    >>> _owner("1/models/m-7/artifacts"), _owner("1/ab12/artifacts")
    (('model', 'm-7'), ('run', 'ab12'))
    """
    parts = inner.split("/")
    return ("model", parts[2]) if parts[1] == "models" else ("run", parts[1])


class _Body(io.RawIOBase):
    """The pieces of an answer as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._ahead = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # as RawIOBase reads
        while not self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._ahead = piece
        count = min(len(buffer), len(self._ahead))
        buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        return count
