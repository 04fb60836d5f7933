#!/usr/bin/env bash
# Starlette's, Quart's and Litestar's own session tests with our sessions, in a throw-away venv.
# Starlette's come with its source; a checkout of QUART or LITESTAR is named by that variable.
set -euo pipefail
python=${1:?which Python}
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check)
[ ! -x .venv/bin/uv ] || install=("$PWD/.venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python")
[ -n "${install:-}" ] || install=("${pip[@]}" install)
"${install[@]}" --editable . 'starlette[full]==1.10.0' quart==0.22.0 litestar==2.25.0 \
  hypothesis httpx itsdangerous jinja2 pytest pytest-asyncio pytest-timeout python-dotenv python-multipart trio
"${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" starlette==1.10.0
tar --extract --gzip --file "$folder"/starlette-1.10.0.tar.gz --directory "$folder"
cat > "$folder/our_starlette.py" <<'PLUGIN'
from datetime import timedelta

import starlette.middleware.sessions as theirs
from samesession import Cookie, Sessions
from samesession.web.asgi import SessionMiddleware


class Ours(SessionMiddleware):
    def __init__(self, app, secret_key, max_age=1209600, https_only=False, **cookie):
        life = timedelta(seconds=max_age or 1209600)
        given = Cookie(name="session", secure=https_only, persistent=max_age is not None, **cookie)
        sessions = Sessions.from_url("memory://", cookie=given, idle=life, lifetime=life)
        super().__init__(app, sessions)


theirs.SessionMiddleware = Ours
PLUGIN
cat > "$folder/our_quart.py" <<'PLUGIN'
import quart
from samesession import Cookie, Sessions
from samesession.web.quart import init_app

theirs = quart.Quart.__init__


def ours(self, *words, **more):
    theirs(self, *words, **more)
    init_app(self, Sessions.from_url("memory://", cookie=Cookie(secure=False)))


quart.Quart.__init__ = ours
PLUGIN
cat > "$folder/our_litestar.py" <<'PLUGIN'
import litestar.middleware.session.server_side as theirs
from samesession import Cookie, Sessions
from samesession.web.litestar import SessionBackend, SessionConfig


class Ours(SessionConfig):
    def __init__(self, **more):
        super().__init__(Sessions.from_url("memory://", cookie=Cookie(secure=False)))


theirs.ServerSideSessionConfig, theirs.ServerSideSessionBackend = Ours, SessionBackend
PLUGIN
run() { # plugin, folder of a suite, further words of pytest
  cd "$2"
  PYTHONPATH="$folder:." "$folder/venv/bin/python" -m pytest -q -p no:cacheprovider -W ignore \
    -c /dev/null --rootdir . -o asyncio_mode=auto -p "$1" "${@:3}"
}
(run our_starlette "$folder/starlette-1.10.0" tests/middleware/test_session.py \
  `# compared literally: ours writes Path, Domain and Partitioned with a capital, and Max-Age last` \
  --deselect "tests/middleware/test_session.py::test_session[" \
  --deselect tests/middleware/test_session.py::test_partitioned_session \
  --deselect tests/middleware/test_session.py::test_session_cookie_subpath \
  --deselect tests/middleware/test_session.py::test_domain_cookie \
  `# a session that is over before it begins is a ConfigError` \
  --deselect tests/middleware/test_session.py::test_session_expires \
  --deselect tests/middleware/test_session.py::test_session_zero_max_age)
[ -z "${QUART:-}" ] || (run our_quart "$QUART" tests \
  `# fail with Quart's own sessions, too` \
  --deselect tests/test_asgi.py::test__handle_exception \
  --deselect "tests/test_blueprints.py::test_cli_blueprints[cli_group2-args2]")
if [ -n "${LITESTAR:-}" ]; then
  "${install[@]}" 'litestar[standard,cli,mako,minijinja,valkey,cryptography,attrs,pydantic]==2.25.0' \
    asyncpg redis pytest-lazy-fixtures pytest-mock 'time-machine<3'
  (run our_litestar "$LITESTAR" tests/unit/test_middleware/test_session tests/unit/test_plugins/test_flash.py \
    tests/unit/test_security/test_session_auth.py tests/unit/test_testing/test_test_client.py \
    tests/examples/test_using_session_auth.py tests/examples/test_middleware/test_session_middleware.py \
    -k "(session or flash) and not (redis_store or valkey_store)" \
    `# the insides of its own backend and store` \
    --ignore tests/unit/test_middleware/test_session/test_server_side_backend.py \
    `# the id is a public name, not the cookie` \
    --deselect "tests/unit/test_middleware/test_session/test_middleware.py::test_session_id_correctness[server-side]" \
    --deselect "tests/unit/test_middleware/test_session/test_middleware.py::test_keep_session_id[server-side]")
fi
