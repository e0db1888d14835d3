"""The OpenAPI document: what the framework derives, with what holds for every route added, and its page."""

from collections.abc import Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from telemetry.api.problems import MEDIA_TYPE, PROBLEMS, Problem, responses

METHODS: Final = ("get", "put", "post", "delete")
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_EVERY: Final = ("internal", "unavailable")
_AUTHENTICATED: Final = ("not-authenticated", "not-permitted", "rate-limited")
_WITH_BODY: Final = ("too-large", "unsupported-media-type", "invalid-request")
_HEADERS: Final = {
    "X-Request-Id": {"description": "random; finds the request in the log", "schema": {"type": "string"}},
}
_LIMIT_HEADERS: Final = {
    "RateLimit": {"description": "what is left (draft-ietf-httpapi-ratelimit-headers)", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "how much there is", "schema": {"type": "string"}},
}
_ABOUT: Final = """\
What owners allow, and nothing else. Foreign, missing and withdrawn are the same answer. A request is for one purpose.
Times are RFC 3339; ranges hold their start and not their end. Answers state the resolution served, which is the
coarser of what is asked and what is granted."""


def document(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes."""
    made = get_openapi(
        title=app.title, version=app.version, description=_ABOUT, routes=app.routes, separate_input_output_schemas=True
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in made["paths"].values():
        for method in METHODS:
            if method in path:
                _complete(path[method], method)
    return made


def _complete(operation: dict[str, Any], method: str) -> None:
    slugs = [*_EVERY]
    if operation.get("security"):
        slugs += _AUTHENTICATED
    if "requestBody" in operation:
        slugs += _WITH_BODY
    if operation.get("parameters"):
        slugs.append("invalid-request")
    declared = operation["responses"]
    for status, entry in responses(*dict.fromkeys(slugs)).items():
        declared.setdefault(str(status), entry)
    success = declared.get("200", {})
    if method == "get" and "text/event-stream" not in success.get("content", {}):
        declared.setdefault("304", {"description": "As If-None-Match has it already"})
    for status, entry in declared.items():
        entry.pop("model", None)
        if int(status) >= 400:
            entry["content"] = {MEDIA_TYPE: {"schema": _PROBLEM} | _examples(entry)}
        entry["headers"] = entry.get("headers", {}) | _HEADERS
        if operation.get("security"):
            entry["headers"] |= _LIMIT_HEADERS
    operation["responses"] = dict(sorted(declared.items()))


def _examples(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = entry.get("content", {}).get(MEDIA_TYPE, {})
    return {"examples": found["examples"]} if "examples" in found else {}


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1,h2,h3{line-height:1.2}h3{margin:2rem 0 .3rem}code{font-family:ui-monospace,monospace}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem .3rem 0;"
    "text-align:left;vertical-align:top}.m{font-weight:600;text-transform:uppercase}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}a{color:#8bf}}"
)


def page(title: str, body: str) -> str:
    """One whole HTML page; nothing in it is loaded from elsewhere, and it runs no script."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}</body></html>\n'
    )


STYLE: Final = _STYLE


def docs_page(made: Mapping[str, Any]) -> str:
    """The document as a page for people."""
    parts = [f"<h1>{escape(made['info']['title'])}</h1><p>{escape(made['info']['description'])}</p>"]
    parts.append('<p>As a document for programs: <a href="/api/openapi.json">openapi.json</a></p>')
    for path, operations in made["paths"].items():
        parts += [_operation(path, method, operations[method]) for method in METHODS if method in operations]
    parts.append("<h2>Problems</h2><ul>")
    parts += [f'<li><a href="/problems/{slug}">{slug}</a> ({each.status})</li>' for slug, each in PROBLEMS.items()]
    return page(made["info"]["title"], "".join(parts) + "</ul>")


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    said = [
        f'<h3 id="{escape(operation["operationId"])}"><span class="m">{method}</span> <code>{escape(path)}</code></h3>',
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
    ]
    if parameters := operation.get("parameters"):
        said.append("<table><tr><th>parameter</th><th>in</th><th>what</th></tr>")
        said += [
            f"<tr><td><code>{escape(each['name'])}</code>{' *' if each.get('required') else ''}</td>"
            f"<td>{each['in']}</td><td>{escape(each.get('description', ''))}</td></tr>"
            for each in parameters
        ]
        said.append("</table>")
    said.append("<table><tr><th>status</th><th>what</th></tr>")
    said += [
        f"<tr><td>{status}</td><td>{escape(each['description'])}</td></tr>"
        for status, each in operation["responses"].items()
    ]
    return "".join(said) + "</table>"


def problem_page(slug: str) -> str:
    """What one kind of problem means."""
    problem = PROBLEMS[slug]
    about = f"<h1>{escape(problem.title)}</h1><p>Status {problem.status}, <code>/problems/{slug}</code></p>"
    return page(problem.title, f"{about}<p>{escape(problem.text)}</p>")
