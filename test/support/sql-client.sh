#!/bin/bash
# The guest image's own MariaDB client on this host:
#   unshare --mount --pid --fork --kill-child --mount-proc bash sql-client.sh PLACE ROOT SQL ADDRESS
# PLACE is an empty directory; statements come on standard input, each answer goes out at once.
set -euo pipefail
. "$(dirname "$0")/sql-image.sh"
mount_image "$1" "$2" "$3"
exec chroot "$1" /data/program/mariadb --no-defaults --batch --raw --skip-column-names --unbuffered \
  --connect-timeout=20 --host="$4" --user=app shop
