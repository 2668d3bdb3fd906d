"""The project that each thing belongs to."""

from __future__ import annotations

from modelyard.access import store
from modelyard.access.rules import DEFAULT
from modelyard.access.values import Placed
from modelyard.core.area import Area
from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.refs import Resource

PLACED_KINDS = ("experiment",)  # a model carries its project itself


class Projects(Area):
    """Places things in projects, which roles are given for."""

    @operation("PUT", "/access/projects/{project}/{kind}/{name}", needs="access.write")
    def place(self, project: str, kind: str, name: str, *, user: str) -> Placed:
        """The experiment, by its id, in the project that it and its runs belong to from now on.

        A model carries its own project: `modelyard registry update-model NAME --project PROJECT`.

        >>> from modelyard.access.service import AccessManager
        >>> AccessManager(folder).place("risk", "experiment", "1", user="root")
        Placed(kind='experiment', name='1', project='risk')
        """
        if kind not in PLACED_KINDS:
            raise Invalid(f"A {kind!r} is placed by nobody. {nearest(kind, list(PLACED_KINDS))}")
        placed = Placed(kind=kind, name=checked_name(name, kind), project=checked_name(project, "project"))
        with self.store.work(user) as work:
            before = store.project_of(work.rows, kind, name)
            work.rows.run(store.PLACE, kind=kind, name=name, project=project, at=micros(work.now))
            details = {"what": "project", "project": project, "before": before or DEFAULT}
            work.emit(EventType.CONFIGURATION_CHANGED, Resource(kind, name), details, severity=EventSeverity.WARNING)
        return placed

    @operation("GET", "/access/projects", needs="access.read")
    def list_placed(self, project: str | None = None) -> list[Placed]:
        """What was placed in a project, or in any. What never was is in the project `default` and not listed.

        >>> from modelyard.access.service import AccessManager
        >>> access = AccessManager(folder)
        >>> _ = access.place("risk", "experiment", "1", user="root")
        >>> [placed.name for placed in access.list_placed("risk")]
        ['1']
        """
        with self.store.reading() as rows:
            return store.placed(rows, project)
