#!/bin/sh
# Starts Prometheus, which does not read its configuration's values from the environment.
set -eu
sed "s|ROOT_PATH|${ROOT_PATH:-}|" /etc/prometheus/prometheus.yml > /tmp/prometheus.yml
exec prometheus --config.file=/tmp/prometheus.yml --storage.tsdb.path=/prometheus \
    --storage.tsdb.retention.time=15d --storage.tsdb.retention.size=5GB
