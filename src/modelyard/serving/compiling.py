"""The faster form of an installed version: made once by content, kept beside the routing, used where it proved alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.errors import Unavailable, YardError
from modelyard.serving.forms import digest_of, located, native
from modelyard.serving.places import Places, read, write
from modelyard.serving.values import Compiled, Installed


def compiled(places: Places, installed: Installed) -> Installed:
    """The version with its compiled form, or with the reason why there is none."""
    if installed.framework == "python":
        return installed
    arguments, framework = located(installed)
    if framework not in plugins.TABLE["trees"] or not arguments[0].is_file():
        return installed
    digest = digest_of(arguments, framework)
    form = _kept(places, digest, arguments, framework)
    other = native(installed) if not form.path and framework != "sklearn" else None
    if other is not None:  # what a graph spells out step by step, scikit-learn's own form says in a word
        found = _kept(places, digest_of(other, "sklearn"), other, "sklearn")
        form = replace(found, digest=digest) if found.path else form
    return replace(installed, compiled=form)


def _kept(places: Places, digest: str, arguments: tuple[Any, ...], framework: str) -> Compiled:
    """The form of a file, made if it is not there yet."""
    known = places.compiled(digest).with_suffix(".json")
    if known.exists():
        found: Compiled = read(known, Compiled)
        return found
    form, lasting = _form(places.compiled(digest), arguments, framework, digest)
    if lasting:
        write(known, form)
    return form


def _form(target: Path, arguments: tuple[Any, ...], framework: str, digest: str) -> tuple[Compiled, bool]:
    """The form of a file, and whether it would be the same another time."""
    path, signature, *more = (*arguments, None) if len(arguments) == 1 else arguments
    try:
        parity = plugins.load("compiler", "trees")(path, framework, signature, target, *more)
    except ModuleNotFoundError as error:
        return Compiled(digest=digest, reason=f"{error.name} is not installed"), False
    except ImportError:
        return Compiled(digest=digest, reason="the kernel was not built on this machine: it had no C compiler"), False
    except Unavailable as error:
        return Compiled(digest=digest, reason=str(error)), False
    except YardError as error:
        return Compiled(digest=digest, reason=str(error)), True
    return Compiled(digest=digest, path=str(target), parity=parity), True
