"""A read-only web server for one folder of runs, on the loopback interface.

It answers GET and HEAD, and only to requests whose `Host` is this machine, since another page in the same browser could
otherwise reach it under a name of its own (DNS rebinding). A content security policy allows its own style and script.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from sirl.errors import UserError
from sirl.report.render import HERE as REPORT
from sirl.report.render import frame, render_html
from sirl.view import pages
from sirl.view.folders import Cache, find_runs

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
MOST_COMPARED = 8


class NotFoundError(Exception):
    """There is no such page, or no such run."""


class View(ThreadingHTTPServer):
    """Serves the runs below `root`; port 0 takes any that is free."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.cache = Cache()
        super().__init__((LOOPBACK, port), Handler)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def allows(self, host: str | None) -> bool:
        """Whether a `Host` header names this machine."""
        return host in {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: View
    server_version = "sirl"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer, or say why not."""
        if not self.server.allows(self.headers.get("Host")):
            return self._problem(HTTPStatus.FORBIDDEN, "This page answers to 127.0.0.1 and localhost only.")
        parts = urlsplit(self.path)
        try:
            query = parse_qs(parts.query, keep_blank_values=False, max_num_fields=50)
            page = ROUTES[parts.path]
        except (KeyError, ValueError):
            return self._problem(HTTPStatus.NOT_FOUND, "There is no such page.")
        try:
            body, kind, policy = page(self.server, query)
        except NotFoundError as error:
            return self._problem(HTTPStatus.NOT_FOUND, str(error))
        except UserError as error:
            return self._problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return self._send(HTTPStatus.OK, body, kind, policy)

    def do_HEAD(self) -> None:
        """The same without its body."""
        self.do_GET()

    def _problem(self, status: HTTPStatus, message: str) -> None:
        self._send(status, pages.problem(status.phrase, message), "text/html", POLICY)

    def _send(self, status: HTTPStatus, body: str, kind: str, policy: str) -> None:
        data = body.encode("utf-8", "replace")
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is for errors."""


Query = dict[str, list[str]]
Page = tuple[str, str, str]


def _html(body: str) -> Page:
    return body, "text/html", POLICY


def _run(view: View, query: Query) -> tuple[str, Path]:
    """The run that a query names, which must be one of those that are there."""
    name = query.get("run", [""])[0]
    path = find_runs(view.root).get(name)
    if path is None:
        raise NotFoundError(f"There is no run {name!r} here.")
    return name, path


def _index(view: View, _: Query) -> Page:
    return _html(pages.index(view.root, find_runs(view.root)))


def _report(view: View, query: Query) -> Page:
    _, path = _run(view, query)
    return render_html(view.cache.get(path)[0]), "text/html", f"{frame()['policy']}; frame-ancestors 'none'"


def _training(view: View, query: Query) -> Page:
    name, path = _run(view, query)
    return _html(pages.training(name, path, view.cache.get(path)[0]))


def _conversations(view: View, query: Query) -> Page:
    name, path = _run(view, query)
    return _html(pages.conversations(name, view.cache.get(path)[0], {key: values[0] for key, values in query.items()}))


def _csv(view: View, query: Query) -> Page:
    _, path = _run(view, query)
    asked = {key: values[0] for key, values in query.items()}
    return pages.conversations_csv(view.cache.get(path)[0], asked), "text/csv", POLICY


def _compare(view: View, query: Query) -> Page:
    names = list(dict.fromkeys(query.get("run", [])))
    if not 2 <= len(names) <= MOST_COMPARED:
        raise NotFoundError(f"Choose 2 to {MOST_COMPARED} runs to compare.")
    paths = [_run(view, {"run": [name]})[1] for name in names]
    return _html(pages.compare(names, [view.cache.get(path)[1] for path in paths]))


def _file(path: Path, kind: str, _: View, __: Query) -> Page:
    return path.read_text(encoding="utf-8"), kind, POLICY


ROUTES: dict[str, Callable[[View, Query], Page]] = {
    "/": _index,
    "/report": _report,
    "/training": _training,
    "/conversations": _conversations,
    "/conversations.csv": _csv,
    "/compare": _compare,
    "/report.css": partial(_file, REPORT / "report.css", "text/css"),
    "/view.css": partial(_file, pages.HERE / "view.css", "text/css"),
    "/tables.js": partial(_file, REPORT / "tables.js", "text/javascript"),
    "/view.js": partial(_file, pages.HERE / "view.js", "text/javascript"),
}
"""Every address that there is."""
