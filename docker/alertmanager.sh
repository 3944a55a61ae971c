#!/bin/sh
# Starts Alertmanager. It expands no variables: so the receiver that ALERT_RECEIVER names (webhook, sns) is added to its file
# with its ${…} filled in from the environment. Without one it notifies nobody. docs/adr/0018-one-receiver.md.
set -eu
file=/etc/alertmanager/alertmanager.yml
if [ -n "${ALERT_RECEIVER:-}" ]; then
  : "${ALERT_TARGET:?is needed with ALERT_RECEIVER}"
  script=
  for name in ALERT_TARGET REPOSITORY_URL GRAFANA_URL; do
    value=$(printenv "$name" | sed 's/[&|\\]/\\&/g') || true
    script="$script;s|\${$name}|$value|g"
  done
  { cat "$file"; sed "$script" "/etc/alertmanager/receivers/$ALERT_RECEIVER.yml"; } > /tmp/alertmanager.yml
  file=/tmp/alertmanager.yml
fi
exec /bin/alertmanager --config.file="$file" "$@"
