"""Runs the checks of a client and tells, as one line of JSON, what each found wrong."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

ADDRESS: dict[str, str] = json.loads(sys.argv[1])


def run(module: Mapping[str, Any]) -> None:
    """Call every function of a module whose name begins with check_."""
    told = {}
    for name, check in list(module.items()):
        if name.startswith("check_"):
            told[name] = _said(check)
    print(json.dumps(told))


def _said(check: Callable[[], Any]) -> str:
    try:
        result = check()
        if inspect.isawaitable(result):

            async def wait() -> None:
                await result

            asyncio.run(wait())
    except BaseException:  # noqa: BLE001 - whatever it is, it is told by name
        return traceback.format_exc()[-1500:]
    return ""


def refusal(call: Callable[[], Any], kind: type[Exception]) -> Any:
    """The error with which a call is refused."""
    try:
        found = call()
    except kind as error:
        return error
    raise AssertionError(f"it was answered: {found!r}")


def refused(call: Callable[[], Any], kind: type[Exception]) -> str:
    """Its words."""
    return str(refusal(call, kind))


async def failed(call: Awaitable[Any], kind: type[Exception]) -> Any:
    """The error with which an awaited call is refused."""
    try:
        found = await call
    except kind as error:
        return error
    raise AssertionError(f"it was answered: {found!r}")
