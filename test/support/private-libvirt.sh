#!/bin/bash
# A place for one libvirt daemon: `unshare --mount bash private-libvirt.sh DIRECTORY`. Binds directories of its own over
# the host's, says `ready`, and waits for the end of its standard input: its owner closed it, or died. Then it ends what
# lives in the place, whoever started it: processes (by their mount namespace), bridges, rules of the firewall.
set -uo pipefail
shopt -s nullglob
directory=$1
trap '' HUP INT TERM PIPE

mount --make-rprivate / || exit
for pair in run:/run lib:/var/lib etc:/etc log:/var/log cache:/var/cache; do
  mkdir -p "$directory/${pair%%:*}" "${pair#*:}/libvirt" || exit
  mount --bind "$directory/${pair%%:*}" "${pair#*:}/libvirt" || exit
done
# What libvirt notes here names the bridges; it must be there at the end, when the directory may be gone.
mkdir -p /run/libvirt/network && mount -t tmpfs tmpfs /run/libvirt/network || exit
echo ready
exec >&2

while read -r _; do :; done

for ((until = SECONDS + 20; SECONDS < until; )); do
  others=()
  for each in /proc/[0-9]*; do
    pid=${each#/proc/}
    if [ "$pid" != $$ ] && [ "$each/ns/mnt" -ef /proc/$$/ns/mnt ]; then others+=("$pid"); fi
  done
  [ ${#others[@]} -gt 0 ] || break
  kill -KILL "${others[@]}" 2>/dev/null
  sleep 0.05
done

for file in /run/libvirt/network/*.xml; do
  bridge=$(sed -n "s/.*<bridge name='\([A-Za-z0-9._-]*\)'.*/\1/p" "$file")
  [ -n "$bridge" ] || continue
  ip link delete "$bridge"
  for tool in iptables ip6tables; do
    for table in filter nat mangle; do
      "$tool" -w -t "$table" -S | grep -E -- " -[io] $bridge( |\$)" | while read -r _ rule; do
        # shellcheck disable=SC2086 # words of a rule
        "$tool" -w -t "$table" -D $rule
      done
    done
  done
done
