#!/usr/bin/env bash
# Flask-Login's, Flask-WTF's and Flask's own test suites with our sessions in every application, in a
# throw-away venv.
set -euo pipefail
python=${1:?which Python}
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check)
# Flask's suite reaches into pytest 8; Flask-Login's wants semantic_version, Flask's async views asgiref.
"${pip[@]}" install --editable . flask==3.1.3 flask-login==0.6.3 flask-wtf==1.3.0 asgiref blinker python-dotenv \
  'pytest<9' semantic_version
"${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" flask==3.1.3 flask-login==0.6.3 flask-wtf==1.3.0
for source in "$folder"/*.tar.gz; do tar --extract --gzip --file "$source" --directory "$folder"; done
cat > "$folder/ours.py" <<'PLUGIN'
import flask
from samesession import Cookie, Sessions
from samesession.web.flask import init_app

theirs = flask.Flask.__init__


def ours(self, *words, **more):
    theirs(self, *words, **more)
    init_app(self, Sessions.from_url("memory://", cookie=Cookie(secure=False)))


flask.Flask.__init__ = ours
PLUGIN
run() { # folder of a suite, further words of pytest
  cd "$1"
  PYTHONPATH="$folder" "$folder/venv/bin/python" -m pytest -q -p no:cacheprovider -c /dev/null \
    --rootdir . -p ours tests "${@:2}"
}
(run "$folder"/[Ff]lask-[Ll]ogin-0.6.3)
(run "$folder"/flask_wtf-1.3.0)
# What is about Flask's own cookie, its secret key, or another session interface than ours:
(run "$folder"/flask-3.1.3 --ignore tests/type_check \
  `# the cookie is set up by Cookie(…), and says Max-Age instead of Expires` \
  --deselect tests/test_basic.py::test_session_path \
  --deselect tests/test_basic.py::test_session_using_application_root \
  --deselect tests/test_basic.py::test_session_using_session_settings \
  --deselect tests/test_basic.py::test_session_using_samesite_attribute \
  --deselect tests/test_basic.py::test_session_expiration \
  --deselect tests/test_reqctx.py::test_session_dynamic_cookie_name \
  `# a permanent cookie lives until the session's end, so no request has to renew it` \
  --deselect tests/test_basic.py::test_session_cookie_setting \
  --deselect tests/test_basic.py::test_session_refresh_vary \
  `# no SECRET_KEY is needed` \
  --deselect tests/test_basic.py::test_missing_session \
  --deselect tests/test_basic.py::test_session_secret_key_fallbacks \
  --deselect tests/test_testing.py::test_session_transactions_no_null_sessions \
  `# modified says what is still to be kept, and after the answer nothing is` \
  --deselect tests/test_basic.py::test_session_accessed \
  `# another interface in our place is refused` \
  --deselect tests/test_session_interface.py::test_open_session_with_endpoint \
  `# the application and its middleware know each other` \
  --deselect tests/test_basic.py::test_app_freed_on_zero_refcount \
  `# fails with Flask's own sessions, too` \
  --deselect tests/test_reqctx.py::test_bad_environ_raises_bad_request)
