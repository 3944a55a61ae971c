#!/bin/sh
# Makes what is missing in PostgreSQL, as often as it is called: `prepare-database owner` the owner of the tables and the
# database; after `gamepulse migrate`, `prepare-database logins` those of the Collector and of Grafana.
# Passwords come from KEYS and go in by standard input: arguments are seen by everybody.
set -eu
cd /usr/share/gamepulse

run() { # user, its password's file, database, file of SQL, password to set
  { printf "\\\\set studio 1\n\\\\set password '%s'\n" "$(cat "$KEYS/$5")"; cat "$4"; } |
    PGPASSWORD=$(cat "$KEYS/$2") psql -XAtq -v ON_ERROR_STOP=1 -h "$POSTGRES_HOST" -U "$1" -d "$3" -f -
}

case $1 in
owner) run postgres superuser-password postgres database.sql owner-password ;;
logins)
  run postgres superuser-password postgres monitor.sql monitor-password
  run gamepulse owner-password gamepulse grafana.sql grafana-password
  ;;
*)
  echo "prepare-database owner|logins" >&2
  exit 2
  ;;
esac
