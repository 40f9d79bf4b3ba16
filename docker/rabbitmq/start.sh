#!/bin/sh
# Starts RabbitMQ with one user, whose password is that of the settings at every start. Definitions
# are loaded in the order of their files' names.
set -eu
umask 077
folder=/tmp/definitions
mkdir -p "$folder"
cat > "$folder/1-user.json" <<JSON
{
  "vhosts": [{"name": "/"}],
  "users": [{"name": "postroom", "password": "${RABBITMQ_PASSWORD:?}", "tags": ["administrator"]}],
  "permissions": [{"user": "postroom", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]
}
JSON
cp /etc/rabbitmq/definitions.json "$folder/2-queues.json"
unset RABBITMQ_PASSWORD
exec docker-entrypoint.sh rabbitmq-server
