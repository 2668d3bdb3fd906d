"""Commands of an area, derived from its operations' signatures and docstrings."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

import msgspec
from cyclopts import App, Group, Parameter, Token

from modelyard.cli.output import check, show
from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid
from modelyard.core.operations import Operation, operations
from modelyard.settings import Setting, settings

COMMON = Group("Common options", sort_key=100)
YARD = Annotated[str | None, Parameter(name="--yard", group=COMMON, help="Folder or database URL of the yard.")]
TEXTS = {"audit.query_events": "modelyard.cli.trail:trail"}  # operation -> its answer in words, in place of a table
FORMAT = Annotated[str | None, Parameter(name="--format", group=COMMON, help="table, json or csv.")]


def area_app(area: str, name: str, help_text: str) -> App:
    """The app of one area with a command for each of its operations."""
    defaults = Parameter(negative_iterable=())  # an empty list is what is there without the option
    app = App(name=name, help=help_text, help_format="plaintext", default_parameter=defaults)
    for entry in operations(area):
        app.command(command_of(entry), name=entry.verb.replace("_", "-"))
    return app


def command_of(entry: Operation) -> Callable[..., int]:
    """A function with the operation's own signature that opens the yard, calls it and prints the answer.

    Its exit code is 1 where the answer itself says that something is not ok. An operation's own `format` is that of the
    file it writes; its answer then comes in the default form.
    """
    hints = typing.get_type_hints(entry.function)
    parameters = [p for p in inspect.signature(entry.function).parameters.values() if p.name != "self"]

    names = [p.name for p in parameters]

    def command(*positional: Any, yard: str | None = None, **named: Any) -> int:
        found = settings({"yard": yard, "format": None if "format" in names else named.pop("format", None)})
        check(found["format"].value)
        values = {**dict(zip(placed, positional, strict=False)), **named}
        values = {key: value for key, value in values.items() if value is not None}
        for actor in entry.acting:
            values.setdefault(actor, found["user"].value)
        answer = call(entry, values, found)
        show(_seen(entry, answer, found["format"].value), found["format"].value)
        return int(getattr(answer, "ok", True) is False)

    shown = [_parameter(p, hints.get(p.name, str), entry, order) for order, p in enumerate(parameters)]
    extra = [
        inspect.Parameter("yard", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=YARD),
        inspect.Parameter("format", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FORMAT),
    ]
    extra = [p for p in extra if p.name not in names]
    shown.sort(key=lambda p: (p.kind, p.default is not inspect.Parameter.empty))
    placed = [p.name for p in shown if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    command.__signature__ = inspect.Signature([*shown, *extra])  # type: ignore[attr-defined]  # functions take attributes
    command.__annotations__ = {p.name: p.annotation for p in [*shown, *extra]}
    command.__doc__ = help_of(entry.function)
    command.__name__ = entry.verb
    return command


def _seen(entry: Operation, answer: Any, format: str) -> Any:
    """What people see of an answer: where it is a table, some have words of their own."""
    reference = TEXTS.get(entry.name)
    if reference is None or not answer or (format or ("table" if sys.stdout.isatty() else "json")) != "table":
        return answer
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)(answer)


def call(entry: Operation, values: Mapping[str, Any], found: Mapping[str, Setting]) -> Any:
    """Run the operation on the yard of the settings, or on the server where the setting `url` names one."""
    if found["url"].value and entry.remote:
        from modelyard.client.client import Client

        with Client(found["url"].value, token=secret_of(found["token"].value)) as client:
            return getattr(getattr(client, entry.area), entry.verb)(**values)
    from modelyard.yard import Yard

    with Yard(found["yard"].value, files=found["files"].value or None, online=found["online"].value) as yard:
        method = getattr(yard.area(entry.area), entry.verb)
        result = method(**values)
        return asyncio.run(result) if inspect.iscoroutine(result) else result


def asked(area: str, verb: str, values: Mapping[str, Any], found: Mapping[str, Setting]) -> Any:
    """What an area's operation answers, as plain values."""
    return plain(call(next(one for one in operations(area) if one.verb == verb), values, found))


def format_of(found: Mapping[str, Setting]) -> str:
    """The format that the settings name, or what the output is read by: a table on a terminal, else JSON."""
    return str(found["format"].value or ("table" if sys.stdout.isatty() else "json"))


def secret_of(token: str) -> str:
    """The token itself, read from its file where it is written as @path."""
    if not token.startswith("@"):
        return token
    try:
        return Path(token[1:]).read_text().strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it holds no text"
        raise Invalid(f"The token file {token[1:]} cannot be read: {why}. Check the setting `token`.") from error


def help_of(function: Callable[..., Any]) -> str:
    """The docstring up to its example, one line a paragraph: a terminal has its own width."""
    told = re.split(r"^\s*>>>", inspect.getdoc(function) or "", maxsplit=1, flags=re.MULTILINE)[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in told.split("\n\n")).strip()


def _parameter(parameter: inspect.Parameter, hint: Any, entry: Operation, order: int) -> inspect.Parameter:
    required = parameter.default is inspect.Parameter.empty and parameter.name not in entry.acting
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if required and order < 3 else inspect.Parameter.KEYWORD_ONLY
    annotation = plain_type(hint)
    if parameter.name in entry.acting:
        annotation = Annotated[str | None, Parameter(help="Who is acting; the setting `user` unless given.")]
    elif _is_document(annotation):
        annotation = Annotated[annotation, DOCUMENT]
    default = inspect.Parameter.empty if required else (None if parameter.name in entry.acting else parameter.default)
    return inspect.Parameter(parameter.name, kind, default=default, annotation=annotation)


def _is_document(hint: Any) -> bool:
    """Whether only JSON can say it: a list of mappings, or a mapping whose values may be anything, mappings, or yes and no,
    which as options of their own would take no value."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return arguments[1] in (Any, bool) or typing.get_origin(arguments[1]) in (dict, list)
    if origin is list:
        return typing.get_origin(arguments[0]) is dict
    return origin is not None and any(_is_document(one) for one in arguments if one is not type(None))


def _from_json(hint: Any, tokens: Sequence[Token]) -> Any:
    """What an option's JSON says, with its numbers as numbers. A list is given whole, or an item each time."""
    found = []
    for token in tokens:
        try:
            value = json.loads(token.value)
        except ValueError as error:
            raise ValueError(f"{token.value!r:.60} is no JSON ({error}).") from error
        found += value if isinstance(value, list) else [value]
    single = len(found) == 1 and not _holds_list(hint)
    try:
        return msgspec.convert(found[0] if single else found, hint)
    except msgspec.ValidationError as error:
        raise ValueError(f"{tokens[0].value!r:.60} does not fit: {error}.") from error


def _holds_list(hint: Any) -> bool:
    return typing.get_origin(hint) is list or any(typing.get_origin(one) is list for one in typing.get_args(hint))


DOCUMENT = Parameter(converter=_from_json, n_tokens=1, accepts_keys=False, json_list=False, metavar="JSON")


def refuse_keys(area: str, words: Sequence[str]) -> None:
    """Invalid for a key of a document as an option of its own, which only mappings of plain values have."""
    entry = next((one for one in operations(area) if words[:1] == [one.verb.replace("_", "-")]), None)
    hints = typing.get_type_hints(entry.function) if entry else {}
    for word in words:
        option, dot, key = word.partition("=")[0].partition(".")
        name = option.removeprefix("--").replace("-", "_")
        if dot and option.startswith("--") and name in hints and _is_document(plain_type(hints[name])):
            raise Invalid(f"{option} is one JSON document. Write {option} '{{\"{key}\": ...}}'.")


def plain_type(hint: Any) -> Any:
    """The annotation with abstract containers made concrete, so that a command line can fill it.

    >>> plain_type(Mapping[str, float])
    dict[str, float]
    """
    origin, arguments = typing.get_origin(hint), tuple(plain_type(a) for a in typing.get_args(hint))
    if origin is None:
        return hint
    name = getattr(origin, "__name__", "")
    if name == "Mapping":
        return GenericAlias(dict, arguments)
    if name in ("Sequence", "Iterable", "Collection"):
        return GenericAlias(list, arguments)
    if set(arguments) == {str, Path}:
        return Path
    if len(arguments) == 3 and {str, Path, type(None)} == set(arguments):
        return Path | None
    if origin is typing.Union or name == "UnionType":
        return typing.Union[arguments]  # noqa: UP007  # built from values
    return hint
