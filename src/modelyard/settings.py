"""Settings and where each value came from: flag, environment, project file, user file, default, in that order."""

from __future__ import annotations

import getpass
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.core.errors import Invalid, nearest
from modelyard.core.urls import HIDDEN, without_secrets

PREFIX = "MODELYARD_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its value and its origin."""

    name: str
    value: str = field(repr=False)  # it may be a secret
    origin: str
    meaning: str

    @property
    def number(self) -> int:
        """The value of a setting that is a whole number."""
        try:
            return int(self.value)
        except ValueError as error:
            raise Invalid(f"The setting {self.name} is a number, and not {self.value!r} ({self.origin}).") from error

    @property
    def shown(self) -> str:
        """The value as it may be shown: without the token, and without the passwords of URLs."""
        if self.name == "token" and self.value and not self.value.startswith("@"):
            return HIDDEN
        return without_secrets(self.value)


# name -> (default, meaning); each has a user who must differ
KNOWN: dict[str, tuple[str, str]] = {
    "yard": ("./yard", "the folder or database URL that everything is kept in"),
    "files": ("", "where bytes live when the yard is a database: a folder or s3://bucket/prefix"),
    "user": ("", "who is acting, for the audit log; the login name unless it is set"),
    "host": ("127.0.0.1", "the address that `modelyard serve` listens on"),
    "port": ("8080", "the control plane's port; predictions are answered on the next one"),
    "workers": ("", "serving processes; as many as the endpoints' min_replicas say (2) unless it is set"),
    "format": ("", "output of commands: table, json or csv; a table on a terminal, else json"),
    "token": ("", "the access token a client sends; name a file with @path"),
    "url": ("", "the server a client talks to, instead of opening the yard itself"),
    "master_key": ("", "env:NAME or file:PATH with what wraps the keys of persons; made beside them unless it is set"),
    "webhook_hosts": ("", "hosts, addresses or networks that webhooks may reach though they are not public"),
    "online": ("", "the online feature store: redis://host/0, or empty for the embedded one"),
    "oidc": ("", "a TOML file with the OpenID Connect issuer whose tokens the server takes"),
}


def settings(flags: Mapping[str, str | None] | None = None, *, folder: Path | None = None) -> dict[str, Setting]:
    """Every setting with its origin. Unknown names in a file or the environment are an error that names them.

    >>> settings({"port": "9000"})["port"].origin
    'flag'
    """
    layers = [("flag", {k: v for k, v in (flags or {}).items() if v is not None}), *_layers(folder or Path.cwd())]
    found = {}
    for name, (default, meaning) in KNOWN.items():
        origin, value = next(
            ((where, values[name]) for where, values in layers if name in values), ("default", default)
        )
        if name == "user" and not value:
            value = _login()
        found[name] = Setting(name=name, value=str(value), origin=origin, meaning=meaning)
    return found


def checked_port(port: int) -> int:
    """The port, if it can be the control plane's: predictions are answered on the next one."""
    if not 0 < port < 65_535:
        raise Invalid(f"{port} is no port with another one behind it. Choose one from 1 to 65534.")
    return port


def _layers(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    names = {PREFIX + name.upper(): name for name in KNOWN}
    environment = {names[key]: value for key, value in os.environ.items() if key in names}
    layers: list[tuple[str, dict[str, Any]]] = [("environment", environment)]
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "modelyard" / "config.toml"
    for file, table in (
        (folder / "modelyard.toml", ()),
        (folder / "pyproject.toml", ("tool", "modelyard")),
        (home, ()),
    ):
        values = _table(file, table)
        if values:
            layers.append((str(file), values))
    return layers


def _table(file: Path, path: tuple[str, ...]) -> dict[str, Any]:
    try:
        values: Any = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Invalid(f"{file} cannot be read as TOML: {error}. Correct it or move it away.") from error
    for key in path:
        values = values.get(key, {})
    for name in values:
        if name not in KNOWN:
            raise Invalid(f"{file} has an unknown setting {name!r}. {nearest(name, list(KNOWN))}")
    return dict(values)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        return f"uid-{os.getuid()}"
