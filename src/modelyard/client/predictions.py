"""`Predictions(regions)`: asks the nearest healthy server, and another one with the same request id when that fails."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid, NotFound, Unavailable
from modelyard.serving.regions import ARM, Place, another, parse
from modelyard.serving.regions_health import Health, Probes

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionAnswer:
    """What a model answered, who did, and at which attempt."""

    request_id: str
    predictions: list[Any]
    probabilities: list[list[float]] | None
    model_version: str
    arm: str
    region: str
    url: str
    attempts: int


class Predictions:
    """Predictions of endpoints that several servers answer, by region: {"eu": [URL, ...], "us": [URL, ...]}.

    Each server is asked every second whether it is ready. A request goes to the nearest region that is; where it gets no
    answer it goes to the next server at once, with the same request id, until `deadline` seconds are over. Predicting
    changes nothing, so asking twice does no harm, and what is logged twice has one request id.
    """

    def __init__(
        self, regions: Mapping[str, Sequence[str] | str], *, timeout: float = 10.0, deadline: float = 60.0
    ) -> None:
        self._health = Health(parse(regions))
        self._http = httpx.Client(timeout=timeout)
        self._probes = Probes(self._health)
        self._deadline = deadline

    @property
    def region(self) -> str:
        """The region that requests go to now."""
        return self._health.region

    def predict(
        self, endpoint: str, features: Any, *, unit: str | None = None, request_id: str | None = None
    ) -> PredictionAnswer:
        """The answer to one row or a list of rows. Without a unit the request id decides the arm, so that a second
        attempt is answered by the same one.

        Raises Invalid or NotFound for what no server can answer, and Unavailable if none did in time or the model failed.
        """
        number = request_id or secrets.token_hex(12)
        path = f"/predict/{quote(endpoint, safe='')}"
        body = msgspec.json.encode(
            {"features": plain(features), "request_id": number, "unit_id": number if unit is None else unit}
        )
        end = time.monotonic() + self._deadline
        pause, attempts, why = FIRST_PAUSE_S, 0, ""
        while True:
            for place in self._health.order():
                attempts += 1
                answer, why = self._asked(place, path, body)
                if answer is not None:
                    return _answer(answer, place, number, attempts)
                if time.monotonic() >= end:
                    raise Unavailable(
                        f"{endpoint} was not answered within {self._deadline:g} s, after {attempts} attempts: {why}"
                    )
            time.sleep(min(pause, max(end - time.monotonic(), 0)))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def close(self) -> None:
        """Close the connections. Not closing loses nothing."""
        self._probes.stop()
        self._http.close()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, place: Place, path: str, body: bytes) -> tuple[httpx.Response | None, str]:
        """A place's answer; or None, and why another place is to be asked."""
        headers = {"content-type": "application/json"}
        try:
            answer = self._http.post(place.url + path, content=body, headers=headers)
        except httpx.TransportError as error:
            self._health.failed(place.url, at_once=isinstance(error, httpx.ConnectError))
            return None, f"{place.url}: {error!r}"
        if another(answer.status_code, by_model=ARM in answer.headers):
            self._health.failed(place.url)
            return None, f"{place.url} answered {answer.status_code}"
        return answer, ""


def _answer(answer: httpx.Response, place: Place, number: str, attempts: int) -> PredictionAnswer:
    if answer.status_code != 200:
        raise _error(answer, place)
    try:
        told = answer.json()
        return PredictionAnswer(
            request_id=number,
            predictions=told["predictions"],
            probabilities=told["probabilities"],
            model_version=told["model_version"],
            arm=told["arm"],
            region=place.region,
            url=place.url,
            attempts=attempts,
        )
    except (ValueError, KeyError, TypeError) as error:  # of another program, or a gateway that answers with a page
        raise Unavailable(f"{place.url} answered 200 without predictions. Is it a modelyard server?") from error


def _error(answer: httpx.Response, place: Place) -> Exception:
    try:
        text = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = f"{place.url} answered {answer.status_code} without a reason. Is it a modelyard server?"
    if answer.status_code == 404:
        return NotFound(text)
    return Invalid(text) if answer.status_code < 500 else Unavailable(text)
