"""`modelyard doctor`: what could be wrong with this machine and this yard, and what to do about it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard.cli.derive import FORMAT, YARD
from modelyard.cli.output import show_whole
from modelyard.core.errors import Invalid, YardError
from modelyard.core.plugins import EXTRA_OF
from modelyard.settings import Setting, checked_port, settings
from modelyard.yard import Yard


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding: `ok`, `note` (fine, but worth knowing) or `fault`, with what to do."""

    check: str
    state: str
    finding: str
    fix: str = ""


def doctor(*, yard: YARD = None, format: FORMAT = None) -> int:
    """Check Python, disk, ports, extras, settings and the yard; exit code 1 if anything is at fault."""
    found = settings({"yard": yard, "format": format})
    place, files = found["yard"].value, found["files"].value
    checks = [
        _python(),
        *_disk(place),
        _port(found["host"].value, found["port"]),
        *_extras(),
        *_yard(place, files),
    ]
    show_whole(checks, found["format"].value)
    return int(any(check.state == "fault" for check in checks))


def _python() -> Check:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    fix = "" if good else "Use Python 3.11, 3.12 or 3.13."
    return Check(check="python", state="ok" if good else "fault", finding=f"{version} at {sys.executable}", fix=fix)


def _disk(place: str) -> Iterator[Check]:
    if "://" in place:
        return
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1024**3
    state = "ok" if free > 2 else "fault"
    yield Check(
        check="disk",
        state=state,
        finding=f"{free:.1f} GiB free at {folder}",
        fix="" if free > 2 else "Free some space.",
    )


def _port(host: str, setting: Setting) -> Check:
    try:
        port = checked_port(setting.number)
    except Invalid as error:
        return Check(check="port", state="fault", finding=str(error), fix="Set MODELYARD_PORT, or pass --port.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = "Choose another: modelyard serve --port N, or set MODELYARD_PORT."
            return Check(check="port", state="note", finding=f"{host}:{port} cannot be used: {error.strerror}", fix=fix)
    return Check(check="port", state="ok", finding=f"{host}:{port} is free")


def _extras() -> Iterator[Check]:
    for package, extra in sorted(EXTRA_OF.items(), key=lambda item: item[1]):
        there = importlib.util.find_spec(package) is not None
        fix = "" if there else f"pip install 'modelyard[{extra}]'"
        finding = f"{package} is {'there' if there else 'not installed'}"
        yield Check(check=f"extra {extra}", state="ok" if there else "note", finding=finding, fix=fix)


def _yard(place: str, files: str) -> Iterator[Check]:
    if "://" not in place and not Path(place, "modelyard.db").exists():
        yield Check(check="yard", state="note", finding=f"{place} does not exist yet", fix="It is made on first use.")
        return
    try:
        with Yard(place, files=files or None) as opened:
            yield Check(check="yard", state="ok", finding=f"{opened.store.database.url} can be read")
            yield _told("audit log", lambda: str(opened.audit.verify()))
    except YardError as error:
        yield Check(check="yard", state="fault", finding=str(error), fix="See the message.")


def _told(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(check=name, state="ok", finding=look())
    except YardError as error:
        return Check(check=name, state="fault", finding=str(error), fix="See the message.")
