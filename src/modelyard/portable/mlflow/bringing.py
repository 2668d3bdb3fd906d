"""What every part of an import has at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelyard.core.errors import NotFound, YardError
from modelyard.portable.mlflow.counting import Tally
from modelyard.portable.mlflow.values import Origin

if TYPE_CHECKING:
    from modelyard.yard import Yard

Tell = Callable[[str], None]


@dataclass(slots=True)
class Bringing:
    """One import: from where, to where, by whom, what was counted, and the digest over the records of its runs."""

    yard: Yard
    origin: Origin
    user: str
    tell: Tell
    tally: Tally = field(default_factory=Tally)
    names: dict[str, str] = field(default_factory=dict)  # of models, by what they are called here
    records: Any = field(default_factory=hashlib.sha256)

    def progress(self) -> None:
        """Tell how far it has come."""
        here = self.tally.here
        self.tell(
            f"{here['experiments']:,} experiments, {here['runs']:,} runs, {here['metric values']:,} metric values, "
            f"{here['run files'] + here['model files']:,} files, {here['versions']:,} versions"
        )

    def copy_files(self, kind: str, location: str, inner: str, root: str, whose: str) -> bool:
        """Bring the files at a location below a folder of our own; False if they cannot be read from here."""
        found = self.origin.files(location, inner)
        if found is None:
            return False
        for file in found:
            self.tally.there[kind] += 1
            target = f"{root}/{file.path}"
            try:
                if not self._has(target, file.size):
                    with self.origin.open(location, inner, file.path) as stream:
                        self.yard.tracking.files.write(target, stream)
                    self.tally.new[kind] += 1
                self.tally.here[kind] += 1
            except (YardError, OSError) as error:
                self.tally.reason(kind, f"{file.path} of {whose}: {error}")
        return True

    def _has(self, path: str, size: int) -> bool:
        try:
            known = self.yard.tracking.files.entry(path)
        except NotFound:
            return False
        return not known.is_dir and known.size == size
