"""YAML as people write it: keys in the given order, scripts as blocks, a comment on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Block text for scripts, and lists indented under their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # PyYAML's signature
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # PyYAML's signature
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def document(content: Mapping[str, Any], comment: Sequence[str]) -> str:
    """The YAML text. A key such as `on` is quoted, because YAML 1.1 reads it as true."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment)
    return head + yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def script(commands: Sequence[str]) -> str:
    """Commands as one script, a line each."""
    return "\n".join(commands) + ("\n" if len(commands) > 1 else "")
