#!/bin/sh
# As the entrypoints of official images work: as root it gives the data folder to
# the database's user and begins again as that user; a new folder is initialised,
# with what /docker-entrypoint-initdb.d has; then it becomes the server.
set -eu
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chown -R postgres:postgres "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA"
  exec gosu postgres "$0" "$@"
fi
if ! [ -s "$PGDATA/PG_VERSION" ]; then
  printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/pw
  initdb --username="$POSTGRES_USER" --pwfile=/tmp/pw --auth=scram-sha-256 --no-sync --no-locale --encoding=UTF8
  rm /tmp/pw
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  # Without a server: nobody sees it before its data is there.
  cat /docker-entrypoint-initdb.d/*.sql | postgres --single -j -F postgres
fi
exec "$@" -c listen_addresses='*'
