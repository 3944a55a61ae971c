#!/bin/sh
# Starts Alertmanager. It expands no variables: so the receiver that ALERT_RECEIVER names (webhook, sns) is added to its file
# with ALERT_TARGET in it. Without one it notifies nobody. docs/adr/0018-one-receiver.md.
set -eu
file=/etc/alertmanager/alertmanager.yml
if [ -n "${ALERT_RECEIVER:-}" ]; then
  target=$(printf '%s' "${ALERT_TARGET:?is needed with ALERT_RECEIVER}" | sed 's/[&|\\]/\\&/g')
  { cat "$file"; sed "s|\${ALERT_TARGET}|$target|" "/etc/alertmanager/receivers/$ALERT_RECEIVER.yml"; } > /tmp/alertmanager.yml
  file=/tmp/alertmanager.yml
fi
exec /bin/alertmanager --config.file="$file" "$@"
