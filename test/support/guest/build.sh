#!/bin/bash
# Builds the guest of the tests with real VMs: build.sh DIRECTORY fills it with
#   vmlinuz, initrd     for a direct kernel boot
#   root.raw            Debian with PostgreSQL, MariaDB, Redis and the QEMU guest agent; `init` beside this script is its process 1,
#                       `shutdown` what its guest agent calls
#   data.raw, wal.raw   an empty PostgreSQL cluster: data, and its write-ahead log
#   acks.raw            an empty file system
#   sql.raw, redo.raw   an empty MariaDB and Redis, with their programs: data, and InnoDB's redo and binary log
# Packages come from where this host's apt takes them. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
PATH=$PATH:/usr/sbin:/sbin
tree=$out/tree
trap 'rm -rf "$tree" "$out/initrd.d" "$out/apt-options"' EXIT

shopt -s nullglob
sources=(/etc/apt/sources.lis[t] /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
apt-config dump | { grep -E '^Acquire::(https?::|Retries)' || true; } >"$out/apt-options"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# The kernel's package would build an initrd of its own: INITRD=No.
INITRD=No mmdebstrap --mode=root --variant=minbase --aptopt="$out/apt-options" \
  --include=postgresql,mariadb-server-core,mariadb-client-core,redis-server,qemu-guest-agent,iproute2,busybox-static,udhcpc,kmod,linux-image-cloud-amd64 \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  "$codename" "$tree" "${sources[@]}"

# Kernel, and an initrd that has the modules of virtio and ext4, in the order in which they are loaded.
kernel=$(basename "$tree"/lib/modules/*)
cp "$tree/boot/vmlinuz-$kernel" "$out/vmlinuz"
initrd=$out/initrd.d
mkdir -p "$initrd"/{bin,dev,proc,sys,root,modules}
cp "$tree/bin/busybox" "$initrd/bin/busybox"
chroot "$tree" modprobe --set-version "$kernel" --show-depends --all \
  virtio_pci virtio_blk virtio_net virtio_console virtio_rng crc32c_generic ext4 |
  awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$initrd/modules/order"
while read -r module; do cp "$tree$module" "$initrd/modules/"; done <"$initrd/modules/order"
sed -i 's|.*/||' "$initrd/modules/order"
install -m 755 "$here/initrd-init" "$initrd/init"
(cd "$initrd" && find . | "$tree/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$out/initrd"

# The cluster, with what the application and its check need.
install -m 755 "$here/init" "$tree/sbin/init"
install -m 755 "$here/shutdown" "$tree/sbin/shutdown"
bin=$(cd "$tree" && echo usr/lib/postgresql/*/bin)
ln -s "/$bin" "$tree/opt/postgresql"
mkdir -p "$tree"/{data,wal}
chroot "$tree" install -d -o postgres -g postgres -m 755 /tmp/data /tmp/wal
as_postgres=(chroot "$tree" setpriv --reuid=postgres --regid=postgres --init-groups)
"${as_postgres[@]}" "/$bin/initdb" --pgdata=/tmp/data/cluster --waldir=/tmp/wal/log --wal-segsize=4 \
  --locale=C.UTF-8 --auth=trust --data-checksums --no-sync >/dev/null
cat >>"$tree/tmp/data/cluster/postgresql.conf" <<'CONF'
listen_addresses = '*'
shared_buffers = 16MB
max_connections = 20
min_wal_size = 16MB
max_wal_size = 32MB
checkpoint_timeout = 30s
jit = off
unix_socket_directories = '/run'
CONF
echo 'host all all 10.0.0.0/8 trust' >>"$tree/tmp/data/cluster/pg_hba.conf"
"${as_postgres[@]}" "/$bin/postgres" --single -j -D /tmp/data/cluster postgres >/dev/null <<'SQL'
create table numbers (number bigint primary key, at timestamptz not null default clock_timestamp(), pad text not null);

create extension amcheck;

SQL
rm "$tree/tmp/data/cluster/pg_wal"
ln -s /wal/log "$tree/tmp/data/cluster/pg_wal"

# MariaDB and Redis. Their programs lie on the disk of their data: no other VM's root grows by them.
sql=$tree/tmp/sql
mkdir -p "$tree/redo" "$sql"/program/share "$sql"/{mariadb,redis} "$tree"/tmp/redo/{innodb,binlog}
chroot "$tree" useradd --system --no-create-home mysql
cat >"$sql/my.cnf" <<'CONF'
[mariadbd]
datadir = /data/mariadb
innodb_log_group_home_dir = /redo/innodb
log_bin = /redo/binlog/log
sync_binlog = 1
server_id = 1
innodb_log_file_size = 12M
innodb_buffer_pool_size = 24M
innodb_undo_tablespaces = 0
innodb_autoextend_increment = 4
lc_messages_dir = /data/program/share/mysql
character_sets_dir = /data/program/share/mysql/charsets
plugin_dir = /data/program
socket = /run/mysqld.sock
pid_file = /run/mysqld.pid
bind_address = 0.0.0.0
skip_name_resolve
performance_schema = off
key_buffer_size = 1M
aria_pagecache_buffer_size = 1M
CONF
cat >"$sql/redis.conf" <<'CONF'
dir /data/redis
appendonly yes
appendfsync everysec
save ""
bind 0.0.0.0
protected-mode no
CONF
chroot "$tree" chown -R mysql:mysql /tmp/sql/mariadb /tmp/redo
chroot "$tree" chown -R redis:redis /tmp/sql/redis
mysql_options=(--no-defaults --user=mysql --datadir=/tmp/sql/mariadb --innodb-log-group-home-dir=/tmp/redo/innodb
  --innodb-log-file-size=12M --innodb-undo-tablespaces=0 --innodb-autoextend-increment=4)
chroot "$tree" mariadb-install-db "${mysql_options[@]}" --auth-root-authentication-method=socket --skip-test-db >/dev/null
chroot "$tree" mariadbd "${mysql_options[@]}" --bootstrap >/dev/null <<'SQL'
flush privileges;
create database shop;
create table shop.numbers (number bigint primary key, at timestamp(6) not null default current_timestamp(6), pad text not null) engine = InnoDB;
create user app@'%';
grant all on shop.* to app@'%';
SQL
cp -a "$tree/usr/share/mysql" "$sql/program/share/"
cp -a "$tree"/usr/{sbin/mariadbd,bin/mariadb,bin/redis-check-rdb,bin/redis-cli} "$sql/program/"
mv "$sql/program/redis-check-rdb" "$sql/program/redis-server"
rm -rf "$tree"/usr/{sbin/mariadbd,sbin/mysqld,bin/{mariadb*,mysql*,innochecksum,redis-*,my_print_defaults},share/mysql}
rm -rf "$sql"/program/share/mysql/{[a-df-z]*ish,*an,hindi,chinese,czech,estonian,greek,japanese,korean,norwegian*,slovak,ukrainian,*.sql}

disk() { # NAME MIB [TREE]
  truncate -s "$2M" "$out/$1.raw"
  mke2fs -q -F -t ext4 -E root_owner=0:0,lazy_itable_init=0 ${3:+-d "$3"} "$out/$1.raw"
}
disk data 128 "$tree/tmp/data"
disk wal 64 "$tree/tmp/wal"
disk acks 32
disk sql 160 "$sql"
disk redo 48 "$tree/tmp/redo"

# What a running guest does not need.
rm -rf "$tree"/{boot,etc/apt,lib/modules,var/lib/{apt,postgresql/*},var/cache,usr/include,usr/share/{doc,man,info,perl,perl5}} "$tree"/tmp/*
rm -rf "$tree"/usr/lib/x86_64-linux-gnu/{perl,perl5,perl-base,libLLVM*,libz3*} "$tree/$bin"/../lib/bitcode
mkdir -p "$tree/var/cache" "$tree/boot"
size=$(du -sm "$tree" | cut -f1)
disk root $((size + size / 4 + 32)) "$tree"
