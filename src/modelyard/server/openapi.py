"""The OpenAPI document, derived from the same types that decode the requests. FastAPI writes it, and serves nothing."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from fastapi import Body, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from starlette.routing import Route

from modelyard import __version__
from modelyard.core.operations import Operation, operations
from modelyard.server.callers import PUBLIC
from modelyard.server.calls import Arguments
from modelyard.server.downloads import MEDIA, OTHER

_ENVELOPE = {"type": "object", "required": ["error"], "properties": {"error": {"$ref": "#/components/schemas/Error"}}}
_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
}
_REFUSED = {
    "description": "Refused: the error says what happened and what to do.",
    "content": {"application/json": {"schema": _ENVELOPE}},
}


def openapi(fixed: tuple[Route, ...]) -> dict[str, Any]:
    """The document; `fixed` are the routes that are no operations. It takes as long as starting does."""
    app = FastAPI(title="modelyard", version=__version__)
    _fixed(app, fixed)
    for entry in (one for one in operations() if one.remote):
        app.add_api_route(
            "/api/v1" + entry.path,
            _signed(entry),
            methods=[entry.method],
            operation_id=entry.name,
            tags=[entry.area],
            summary=(inspect.getdoc(entry.function) or entry.name).splitlines()[0],
            responses=_answers(entry),
            response_class=JSONResponse,
        )
    made = app.openapi()
    made["components"]["schemas"]["Error"] = _ERROR
    made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    for shape in made["paths"].values():  # an operation that answers with a file answers with nothing else
        for route in shape.values():
            answers = route["responses"].get("200", {}).get("content", {})
            if OTHER in answers:
                route["responses"]["200"]["content"] = {kind: {"schema": {}} for kind in answers}  # anything
    for routes in made["paths"].values():
        for route in routes.values():
            route["responses"].pop("422", None)
            route["responses"]["4XX"] = _REFUSED
    return made


def _signed(entry: Operation) -> Any:
    """A function with the operation's arguments as they travel."""
    arguments = Arguments(entry)
    parameters = [inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)]
    for name, field in arguments.path.model_fields.items():
        parameters.append(_keyword(name, field.annotation, PathParameter()))
    for name, field in arguments.query.model_fields.items():
        pattern = next((one.pattern for one in field.metadata if getattr(one, "pattern", None)), None)
        told: dict[str, Any] = {"description": field.description, "pattern": pattern}
        default = Query(**told) if field.is_required() else Query(field.default, **told)
        parameters.append(_keyword(name, field.annotation, default))
    if arguments.body is not None:
        parameters.append(_keyword("body", arguments.body, Body()))

    def route() -> None: ...

    route.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # FastAPI reads it
    route.__name__ = entry.name.replace(".", "_")
    return route


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _answers(entry: Operation) -> dict[int | str, dict[str, Any]]:
    """The answer's schema where its type has one; a file where the operation writes one."""
    if Arguments(entry).downloads:
        return {200: {"description": "The file.", "content": {kind: {} for kind in (*MEDIA.values(), OTHER)}}}
    hint: Any = typing.get_type_hints(entry.function).get("return")
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
        return {}
    return {200: {"description": "Done.", "model": hint}}


def _fixed(app: FastAPI, routes: tuple[Route, ...]) -> None:
    """The routes that are no operations, with what they read themselves: nothing, bytes with arguments, or a model."""

    def nothing() -> None: ...

    def model_of(sent: Any) -> Any:
        def model() -> None: ...

        model.__signature__ = inspect.Signature([_keyword("body", sent, Body())])  # type: ignore[attr-defined]
        return model

    raw = {"requestBody": {"content": {OTHER: {"schema": {"type": "string", "format": "binary"}}}}}
    for route in routes:
        sent = getattr(route.endpoint, "sends", None)
        public: dict[str, Any] = {"security": []} if getattr(route.endpoint, "needs", "") == PUBLIC else {}
        app.add_api_route(
            route.path,
            nothing if sent is None else sent if inspect.isfunction(sent) else model_of(sent),
            methods=sorted((route.methods or set()) - {"HEAD"}),
            operation_id=route.name,
            tags=["server"],
            summary=inspect.getdoc(route.endpoint),
            status_code=201 if route.name == "server.upload" else 200,
            openapi_extra=(raw if inspect.isfunction(sent) else {}) | public,
        )
