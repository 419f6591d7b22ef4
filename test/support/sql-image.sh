# Sourced by scripts that use the programs of the guest's MariaDB and Redis on this host:
#   mount_image PLACE ROOT SQL [REDO]   a root whose /data is SQL, and whose /redo is REDO (writable when it is given)
# In a mount namespace of its own (unshare --mount).
mount_image() {
  mount --make-rprivate /
  mount -o loop,ro,noload "$2" "$1"
  mount -o "loop$([ $# -gt 3 ] || echo ,ro,noload)" "$3" "$1/data"
  [ $# -le 3 ] || mount -o loop "$4" "$1/redo"
  mount -t proc proc "$1/proc"
  mount --rbind /dev "$1/dev"
  mount -t tmpfs -o mode=1777 run "$1/run"
  mount -t tmpfs -o mode=1777 tmp "$1/tmp"
}
