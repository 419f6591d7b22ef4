#!/bin/bash
# MariaDB and Redis of the guest's own image, on disks that were exported from a checkpoint, without booting.
#   unshare --mount --pid --fork --kill-child --mount-proc bash check-sql.sh PLACE ROOT SQL REDO
# PLACE is an empty directory; SQL and REDO are raw images that are written to. Prints, each with a line `--` behind it: the numbers
# in MariaDB's table, which passes CHECK TABLE … EXTENDED; the numbers that Redis has; and one line: how many of the two file systems
# had a journal to replay, bytes of InnoDB's redo, ms from MariaDB's start until it was ready, the same of Redis, 1 when the end of
# Redis' file was cut off. Mounts and processes end with the namespaces.
set -euo pipefail
place=$1
journals=0
for image in "$3" "$4"; do
  if dumpe2fs -h "$image" 2>/dev/null | grep -q needs_recovery; then journals=$((journals + 1)); fi
done
. "$(dirname "$0")/sql-image.sh"
mount_image "$place" "$2" "$3" "$4"
log=$place/run/log
trap 'cat "$log".* >&2' ERR
as() { # USER PROGRAM…
  chroot "$place" setpriv --reuid="$1" --regid="$1" --init-groups /data/program/"${@:2}"
}
now() { echo $(($(date +%s%N) / 1000000)); }
ready() { # LOG TEXT PID
  for ((until = SECONDS + 60; ; )); do
    ! grep -q "$2" "$1" || break
    kill -0 "$3" && ((SECONDS < until))
    sleep 0.02
  done
}

began=$(now)
as mysql mariadbd --defaults-file=/data/my.cnf --skip-networking >"$log.mariadb" 2>&1 &
mariadb=$!
ready "$log.mariadb" 'ready for connections' "$mariadb"
mariadb_ms=$(($(now) - began))
sql() { chroot "$place" /data/program/mariadb --no-defaults --socket=/run/mysqld.sock --batch --skip-column-names shop -e "$1"; }
checked=$(sql 'check table numbers extended')
[ "$checked" = $'shop.numbers\tcheck\tstatus\tOK' ] || { echo "$checked" >&2; false; }
sql 'select number from numbers'
echo --

began=$(now)
as redis redis-server /data/redis.conf --port 0 --unixsocket /run/redis.sock >"$log.redis" 2>&1 &
redis=$!
ready "$log.redis" 'ready to accept connections' "$redis"
redis_ms=$(($(now) - began))
chroot "$place" /data/program/redis-cli -s /run/redis.sock keys 'n:*' | sed -n 's/^n://p'
echo --

lsn() { sed -n "s/.*$1 LSN=\([0-9]*\).*/\1/p" "$log.mariadb" | head -n 1; }
from=$(lsn 'Starting crash recovery from checkpoint') to=$(lsn 'End of log at')
cut=0
! grep -qi 'truncat' "$log.redis" || cut=1
echo "$journals $((${to:-0} - ${from:-${to:-0}})) $mariadb_ms $redis_ms $cut"
cat "$log".* >&2
kill -KILL "$mariadb" "$redis"
