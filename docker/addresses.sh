#!/bin/sh
# Tells where the containers can be reached, and with which logins.
set -eu
cd "$(dirname "$0")/.."
url="http://$(docker compose port nginx 8080)"
key=$(docker compose exec -T api python -m api.keys create first admin --first 2> /dev/null)
if [ -n "$key" ]; then
    said="$key  for everything; told this once"
else
    said="made before; more with: docker compose exec api python -m api.keys create NAME SCOPE"
fi
cat <<TEXT

Postroom is ready.

  API            $url
  Documentation  $url/docs
  Flower         $url/flower/    user admin, password FLOWER_PASSWORD in .env
  RabbitMQ       $url/rabbitmq/  user postroom, password RABBITMQ_PASSWORD in .env
  First key      $said

Try it:  export POSTROOM_KEY=${key:-YOUR_KEY}
         curl -i $url/v1/documents -H "authorization: Bearer \$POSTROOM_KEY" \\
           -H 'content-type: application/json' \\
           -d '{"content": "The shuttle will launch from the Cape on Monday and reach its orbit at noon."}'
"make down" stops it; the data stays.
TEXT
