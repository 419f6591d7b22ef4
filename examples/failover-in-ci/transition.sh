#!/usr/bin/env bash
# A transition by stack update: transition.sh preview|up. Environment:
#   STACK               the stack
#   REQUEST             your name for it, e.g. the number of the run: it runs once, however often the job is started
#   ACTION              failover | move | rollback | commit | reverse
#   CHECKPOINT          of a failover; default latest
#   MAX_DATA_LOSS       seconds; more at execution is refused. Default: no limit
#   SOURCE_MAY_BE_ALIVE true: a failover goes on although nobody confirmed that the source is stopped
#   NAMESPACE           of the configuration; default failover-in-ci
# The request stays in the checkout of this job only: a later deployment without it changes nothing.
set -euo pipefail

step=${1:?preview or up}
: "${STACK:?}" "${REQUEST:?}" "${ACTION:?}"
namespace=${NAMESPACE:-failover-in-ci}

ask() {
  [ -z "$2" ] || pulumi config set --stack "$STACK" --path "$namespace:recovery.$1" -- "$2"
}
ask request "$REQUEST"
ask action "$ACTION"
ask checkpoint "${CHECKPOINT:-}"
ask maxDataLossSeconds "${MAX_DATA_LOSS:-}"
ask sourceMayBeAlive "${SOURCE_MAY_BE_ALIVE:-}"

case $step in
  preview)
    # What a person approves: the checkpoint, the seconds that would be lost, the boot order, the addresses.
    if text=$(pulumi preview --stack "$STACK" --non-interactive --diff --suppress-progress 2>&1); then code=0; else code=$?; fi
    printf '%s\n' "$text"
    printf '### %s of %s (%s)\n```\n%s\n```\n' "$ACTION" "$STACK" "$REQUEST" "$text" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
    exit "$code"
    ;;
  up)
    pulumi up --stack "$STACK" --non-interactive --yes --suppress-progress
    for name in activeSite state lastOperation; do
      printf '%s=%s\n' "$name" "$(pulumi stack output --stack "$STACK" "$name")" >>"${GITHUB_OUTPUT:-/dev/null}"
    done
    ;;
  *)
    echo "transition.sh: preview or up, not $step" >&2
    exit 2
    ;;
esac
