"""What a server process imports: the user's application behind ``/health``.

Imported only by the servers that ``samesession up`` starts (``uvicorn samesession.lab.serve:app``):
importing it reads the environment.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from samesession.errors import ConfigError
from samesession.lab.application import interface_of, load
from samesession.lab.health import Asgi, Health, Wsgi, asgi, wsgi
from samesession.lab.joining import Joining
from samesession.lab.processes import die_with_server
from samesession.lab.variables import APP, FOLDER, SERVER, URL

# The server's main process dies with the supervisor; its workers import this, and die with it.
die_with_server()

try:
    _application = load(os.environ[APP])
except ConfigError as error:
    sys.exit(str(error))  # it is one line that says all; its traceback would be sixty, per server
_sessions = sys.modules.get("samesession.sessions")  # the application's; as in `lab.probe`
_joining = Joining(os.environ[URL] if getattr(_sessions, "opened_from_env", False) else None)
_health = Health(Path(os.environ[FOLDER]) / f"{os.environ[SERVER]}.drain", _joining.over)
if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
    _health.stop_on_sigterm()

app: Asgi | Wsgi
match interface_of(_application):
    case "asgi":
        app = asgi(_application, _health)
    case "wsgi":
        app = wsgi(_application, _health)
    case None:
        raise ConfigError(f"{os.environ[APP]!r} is neither an ASGI nor a WSGI application")
