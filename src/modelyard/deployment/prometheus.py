"""One number from a Prometheus server's query API, or from anything that answers like one (Mimir, Thanos, VictoriaMetrics)."""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from modelyard.core.errors import Invalid, Unavailable

TIMEOUT_S = 5.0


def query(server: str, expression: str) -> float | None:
    """The expression's value now, None where there is no data (or NaN); Unavailable where the server does not answer.

    Invalid for an expression that the server refuses, and for one with more than one series.
    """
    if urlsplit(server).scheme not in ("http", "https"):
        raise Invalid(f"{server!r} is no Prometheus server. Write it as http://host:9090.")
    url = f"{server.rstrip('/')}/api/v1/query?{urlencode({'query': expression})}"
    try:
        with urlopen(Request(url, headers={"accept": "application/json"}), timeout=TIMEOUT_S) as reply:  # noqa: S310
            body = json.load(reply)
    except HTTPError as error:
        told = error.read(500).decode("utf-8", "replace")
        kind = Invalid if error.code in (400, 422) else Unavailable
        raise kind(f"Prometheus refuses {expression!r}: {error.code} {told}") from error
    except (URLError, OSError, ValueError) as error:
        raise Unavailable(
            f"Prometheus at {server} does not answer: {error}. It is asked again at the next look."
        ) from error
    return _value(body, expression)


def _value(body: Any, expression: str) -> float | None:
    try:
        data = body["data"]
        samples = [data["result"]] if data["resultType"] == "scalar" else [one["value"] for one in data["result"]]
        if data["resultType"] not in ("scalar", "vector"):
            raise Invalid(
                f"{expression!r} is a {data['resultType']}. Write an expression with one value, such as a sum."
            )
        if len(samples) > 1:
            raise Invalid(
                f"{expression!r} has {len(samples)} series. Aggregate them to one, for example with sum(...)."
            )
        value = float(samples[0][1]) if samples else math.nan
    except (KeyError, TypeError, IndexError) as error:
        raise Unavailable(f"The answer to {expression!r} is none of Prometheus' query API.") from error
    return value if math.isfinite(value) else None
