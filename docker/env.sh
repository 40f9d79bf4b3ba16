#!/bin/sh
# Completes .env: a random password or secret for each name that has none yet. Whatever is there stays.
set -eu
cd "$(dirname "$0")/.."
umask 077
touch .env
chmod 600 .env
# The last line may lack its end.
[ -z "$(tail -c 1 .env)" ] || echo >> .env
for name in POSTGRES_PASSWORD RABBITMQ_PASSWORD FLOWER_PASSWORD SECRET_KEY GRAFANA_PASSWORD; do
    grep -Eq "^ *(export +)?$name *= *[^ ]" .env && continue
    # Letters and digits only, as some go into URLs.
    echo "$name=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >> .env
    echo "postroom: wrote a random $name to .env"
done
