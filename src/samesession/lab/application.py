"""The user's application: found by name, and told apart into ASGI and WSGI."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

from samesession.errors import ConfigError

Interface = Literal["asgi", "wsgi"]

# package.module:name, or :factory() for a function that makes the application.
_SPEC = re.compile(r"(?P<module>[\w.]+):(?P<name>[\w.]+)(?P<call>\(\))?")
LONGEST_MESSAGE = 300
# (scope, receive, send), where a decorator hides that it is async; (environ, start_response)
_BY_ARGUMENTS: dict[int, Interface] = {3: "asgi", 2: "wsgi"}


def checked(spec: str) -> str:
    """Return ``spec`` when it looks like MODULE:APP.

    Raises:
        ConfigError: it does not.
    """
    if not _SPEC.fullmatch(spec):
        raise ConfigError(f"{spec!r} names no application; write MODULE:APP, such as shop:app")
    return spec


def load(spec: str) -> Any:
    """Import the application from the current folder, or from anywhere on the path.

    Raises:
        ConfigError: it cannot be imported; one line that says why.
    """
    match = _SPEC.fullmatch(checked(spec))
    assert match is not None
    here = str(Path.cwd())
    if here not in sys.path:  # PYTHONSAFEPATH, or a server that starts its own workers
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(match["module"])
        for name in match["name"].split("."):
            found = getattr(found, name)
        return found() if match["call"] else found
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {spec!r}: {_reason(error, match['module'])}") from error


def interface_of(application: Any) -> Interface | None:
    """Say how the application wants to be called; None when it is neither ASGI nor WSGI."""
    if not callable(application):
        return None
    call = application if inspect.isroutine(application) else type(application).__call__
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(application):
        return "asgi"
    try:
        needed = [
            parameter
            for parameter in inspect.signature(application).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
    except (TypeError, ValueError):
        return None
    return _BY_ARGUMENTS.get(len(needed))


def _reason(error: BaseException, module: str) -> str:
    if isinstance(error, ConfigError):  # it names the setting; the line would be one of ours
        return str(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_MESSAGE]
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module == missing or module.startswith(f"{missing}.")):
        return f"{text} (run `samesession up` in the folder that holds it)"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
