"""The faster form of an installed version: made once by content, kept beside the routing, used where it proved alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelyard.core import plugins
from modelyard.core.errors import YardError
from modelyard.serving.forms import digest_of, located
from modelyard.serving.places import Places, read, write
from modelyard.serving.values import Compiled, Installed


def compiled(places: Places, installed: Installed) -> Installed:
    """The version with its compiled form, or with the reason why there is none."""
    if installed.framework == "python":
        return installed
    arguments, framework = located(installed)
    if framework not in plugins.TABLE["trees"]:
        return installed
    digest = digest_of(arguments[0], framework)
    known = places.compiled(digest).with_suffix(".json")
    form: Compiled
    if known.exists():
        form = read(known, Compiled)
    else:
        form = _form(places.compiled(digest), arguments, framework, digest)
        write(known, form)
    return replace(installed, compiled=form)


def _form(target: Path, arguments: tuple[object, ...], framework: str, digest: str) -> Compiled:
    path, signature = (*arguments, None)[:2]
    try:
        parity = plugins.load("compiler", "trees")(path, framework, signature, target)
    except ModuleNotFoundError as error:
        return Compiled(digest=digest, reason=f"{error.name} is not installed")
    except ImportError:
        return Compiled(digest=digest, reason="the kernel was not built on this machine: it had no C compiler")
    except YardError as error:
        return Compiled(digest=digest, reason=str(error))
    return Compiled(digest=digest, path=str(target), parity=parity)
