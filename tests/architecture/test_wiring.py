"""The graph of events has no cycle, the schema's head is the newest revision, and every named adapter can be loaded."""

from __future__ import annotations

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from source import ROOT
from test_structure import cycles

from modelyard.core import plugins
from modelyard.core.errors import MissingExtra
from modelyard.settings import KNOWN
from modelyard.storage import schema
from modelyard.wiring import AFTER

OF_THEIR_OWN = {"torch", "tensorflow", "ray", "ray_data"}


def test_events_never_cause_themselves() -> None:
    graph: dict[str, set[str]] = {}
    for wire in AFTER:
        for heard in wire.hears:
            graph.setdefault(heard.value, set()).update(kind.value for kind in wire.causes)
            for kind in wire.causes:
                graph.setdefault(kind.value, set())
    assert not cycles(graph)
    assert not [name for name, caused in graph.items() if name in caused]


def test_handlers_have_names_of_their_own() -> None:
    assert len({wire.name for wire in AFTER}) == len(AFTER)


def test_the_schema_version_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "storage" / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, table in plugins.TABLE.items() for n in table])
def test_every_named_adapter_loads_or_says_what_to_install(kind: str, name: str) -> None:
    try:
        assert plugins.load(kind, name) is not None
    except MissingExtra as error:
        told = str(error)
    else:
        return
    assert name in OF_THEIR_OWN
    assert "pip install 'modelyard[" in told


def test_there_are_fewer_than_25_settings() -> None:
    assert len(KNOWN) < 25
