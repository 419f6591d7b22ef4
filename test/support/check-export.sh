#!/bin/bash
# PostgreSQL and pg_amcheck of the guest's own root disk, on disks that were exported from a checkpoint, without booting.
#   unshare --mount --pid --fork --kill-child --mount-proc bash check-export.sh PLACE ROOT DATA WAL ACKNOWLEDGED
# PLACE is an empty directory; the others are raw images, all but ROOT are written to. Prints the numbers that the client's
# disk has as acknowledged, a line `--`, those of the database, a line `--`, and one line: how many of the three file systems
# had a journal to replay, where PostgreSQL's redo began and ended (`-`: none). Mounts and processes end with the namespaces.
set -euo pipefail
place=$1
journals=0
for image in "$3" "$4" "$5"; do
  if dumpe2fs -h "$image" 2>/dev/null | grep -q needs_recovery; then journals=$((journals + 1)); fi
done
mount --make-rprivate /
mount -o loop,ro,noload "$2" "$place"
mount -o loop "$3" "$place/data"
mount -o loop "$4" "$place/wal"
mount -o loop "$5" "$place/mnt"
mount -t proc proc "$place/proc"
mount --rbind /dev "$place/dev"
mount -t tmpfs -o mode=1777 run "$place/run"
mount -t tmpfs -o mode=1777 tmp "$place/tmp"
rm -f "$place/data/cluster/postmaster.pid"
postgres=(chroot "$place" setpriv --reuid=postgres --regid=postgres --init-groups env PGHOST=/run PATH=/opt/postgresql)

cat "$place/mnt/acknowledged" 2>/dev/null || true
echo --
"${postgres[@]}" postgres -F -D /data/cluster -c listen_addresses= -c logging_collector=off >"$place/run/log" 2>&1 &
server=$!
trap 'cat "$place/run/log" >&2' ERR
for ((until = SECONDS + 60; ; )); do
  "${postgres[@]}" pg_isready --quiet && break
  kill -0 "$server" && ((SECONDS < until))
  sleep 0.05
done
"${postgres[@]}" pg_amcheck --heapallindexed postgres >&2
"${postgres[@]}" psql -XAtc 'select number from numbers' postgres
kill -INT "$server"
wait "$server" || true
cat "$place/run/log" >&2
lsn() { sed -n "s|.*redo $1 at \([0-9A-F/]*\).*|\1|p" "$place/run/log" | head -n 1; }
from=$(lsn starts) to=$(lsn done)
echo --
echo "$journals ${from:--} ${to:--}"
