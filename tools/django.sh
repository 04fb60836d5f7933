#!/usr/bin/env bash
# Our Django tests, Django's own session tests and those of django-formtools, whose wizards live in the
# session, in a throw-away venv with another Python or Django.
set -euo pipefail
python=${1:?which Python} django=${2:?which Django, such as 6.1.3}
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --editable '.[local,redis,testing,up]' "django==$django" \
  'django-formtools<=2.7' anyio httpx pytest-timeout pytest-xdist websockets
formtools=$("${pip[@]}" freeze | grep django-formtools) # the newest for this Django
"${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" "django==$django" "$formtools"
for source in "$folder"/*.tar.gz; do tar --extract --gzip --file "$source" --directory "$folder"; done
"$folder/venv/bin/python" -m pytest -n 0 -q -p no:cacheprovider \
  tests/frameworks/test_django_adopt.py tests/frameworks/test_django.py \
  tests/frameworks/test_django_engines.py
"$folder/venv/bin/python" -m pytest -n 0 -q -p no:cacheprovider \
  tests/frameworks/test_behaviour.py -k django
"$folder/venv/bin/python" tools/django_sessions.py "$folder"/[Dd]jango-"$django" 2> "$folder/log" || {
  cat "$folder/log" >&2; exit 1; }
cd "$folder"/django[_-]formtools-*/
cat > tests/ours.py <<'SETTINGS'
from tests.settings import *

SECRET_KEY = "a secret key of Django's, 50 characters or more, as its startproject makes"
SESSION_ENGINE, SAMESESSION = "samesession.web.django", {"url": "memory://"}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
SETTINGS
PYTHONPATH=. "$folder/venv/bin/python" -m django test --settings tests.ours -k Session tests
