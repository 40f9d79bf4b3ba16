#!/bin/sh
# Tells where the containers can be reached, and with which logins.
set -eu
cd "$(dirname "$0")/.."
url="http://$(docker compose port nginx 8080)"
cat <<TEXT

Postroom is ready.

  API            $url
  Documentation  $url/docs
  Flower         $url/flower/    user admin, password FLOWER_PASSWORD in .env
  RabbitMQ       $url/rabbitmq/  user postroom, password RABBITMQ_PASSWORD in .env

Try it:  curl -i $url/v1/documents -H 'content-type: application/json' \\
           -d '{"content": "The shuttle will launch from the Cape on Monday and reach its orbit at noon."}'
"make down" stops it; the data stays.
TEXT
