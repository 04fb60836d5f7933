#!/usr/bin/env bash
# Our Django tests and Django's own session tests, in a throw-away venv with another Python or Django.
set -euo pipefail
python=${1:?which Python} django=${2:?which Django, such as 6.1.3}
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --editable '.[local,redis,testing,up]' "django==$django" \
  anyio httpx pytest-timeout pytest-xdist websockets
"${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" "django==$django"
tar --extract --gzip --file "$folder"/*.tar.gz --directory "$folder"
"$folder/venv/bin/python" -m pytest -n 0 -q -p no:cacheprovider \
  tests/frameworks/test_django_adopt.py tests/frameworks/test_django.py
"$folder/venv/bin/python" -m pytest -n 0 -q -p no:cacheprovider \
  tests/frameworks/test_behaviour.py -k django
"$folder/venv/bin/python" tools/django_sessions.py "$folder"/[Dd]jango-"$django" 2> "$folder/log" || {
  cat "$folder/log" >&2; exit 1; }
