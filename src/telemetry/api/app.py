"""The application: routers, problems and the boundary put together around one context."""

from enum import StrEnum
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from telemetry.api import problems
from telemetry.api.boundary import Boundary
from telemetry.api.context import Context
from telemetry.api.openapi import document
from telemetry.api.routes import BARE, PREFIX, ROUTERS
from telemetry.errors import TelemetryError
from telemetry.observe.metrics import package_version

_TITLE: Final = "Home energy telemetry"


def build(context: Context) -> Boundary:
    """An ASGI application; one for each process."""
    app = framework(context)
    return Boundary(
        app,
        etags=context.etags,
        observer=context.observer,
        routes=_templates(),
        body_bytes=context.config.api.body_bytes,
    )


def framework(context: Context | None = None) -> FastAPI:
    """The routes alone. Without a context for the OpenAPI document only."""
    app = FastAPI(
        title=_TITLE,
        version=package_version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context, app.state.allowed = context, allowed()
    app.add_exception_handler(TelemetryError, problems.of_telemetry_error)
    app.add_exception_handler(HTTPException, problems.of_http_exception)
    app.add_exception_handler(RequestValidationError, problems.of_validation_error)
    app.add_exception_handler(Exception, problems.of_anything)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    for router in BARE:
        app.include_router(router)
    app.openapi = lambda: _remembered(app)  # type: ignore[method-assign]  # the framework's documented way
    return app


def _remembered(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return app.openapi_schema


def templates() -> dict[str, str]:
    """The template of every route by the route's name, which is its operation id as well."""
    found: dict[str, str] = {}
    for prefix, routers in ((PREFIX, ROUTERS), ("", BARE)):
        for router in routers:
            for route in router.routes:
                assert isinstance(route, APIRoute)  # noqa: S101 - routers are not nested
                assert route.name not in found, route.name  # noqa: S101 - operation ids are unique
                found[route.name] = prefix + route.path
    return found


def allowed() -> dict[str, str]:
    """What Allow says, by the name of any route: the methods of all routes of the same template."""
    methods: dict[str, set[str]] = {}
    named = templates()
    for router in (*ROUTERS, *BARE):
        for route in router.routes:
            assert isinstance(route, APIRoute)  # noqa: S101 - routers are not nested
            methods.setdefault(named[route.name], set()).update(route.methods or ())
    return {name: ", ".join(sorted(methods[path])) for name, path in named.items()}


def _templates() -> dict[str, StrEnum]:
    """Templates as members of an enumeration, which logs and metrics take; text they do not."""
    named = templates()
    made: Any = StrEnum("RouteTemplate", {"unknown": "unknown"} | named, module=__name__)  # type: ignore[misc]
    return {name: made[name] for name in ("unknown", *named)}
