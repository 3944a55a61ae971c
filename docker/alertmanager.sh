#!/bin/sh
# Starts Alertmanager. It expands no variables: so the receiver that ALERT_RECEIVER names (webhook, sns) is added to its file
# with ALERT_TARGET and what else it names filled in. Without one it notifies nobody. docs/adr/0018-one-receiver.md.
set -eu
file=/etc/alertmanager/alertmanager.yml
if [ -n "${ALERT_RECEIVER:-}" ]; then
  text=$(cat "/etc/alertmanager/receivers/$ALERT_RECEIVER.yml")
  for name in ALERT_TARGET REPOSITORY_URL GRAFANA_URL; do
    case $text in *"\${$name}"*) ;; *) continue ;; esac
    eval "value=\${$name:?is needed by the receiver $ALERT_RECEIVER}"
    value=$(printf '%s' "$value" | sed 's/[&|\\]/\\&/g')
    text=$(printf '%s\n' "$text" | sed "s|\${$name}|$value|g")
  done
  { cat "$file"; printf '%s\n' "$text"; } > /tmp/alertmanager.yml
  file=/tmp/alertmanager.yml
fi
exec /bin/alertmanager --config.file="$file" "$@"
