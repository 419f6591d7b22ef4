#!/usr/bin/env bash
# Makes a fresh machine ready: system packages, then npm packages from a cache outside the checkout.
# `setup.sh bench`: what only benchmarks compare with, too.
# Safe to run any number of times; when nothing is missing it only looks (well under a second).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/node_modules/.bin:"/} # npm runs on the Node that it came with

# command it gives : Debian package
system_packages=(
  git:git
  npm:npm
  qemu-nbd:qemu-utils
  qemu-io:qemu-utils
  nbdkit:nbdkit
  nbdinfo:libnbd-bin
  nbdcopy:libnbd-bin
  nbdfuse:libnbd-bin
  mkfs.xfs:xfsprogs
  mkntfs:ntfs-3g
  isoinfo:genisoimage
  fuse2fs:fuse2fs
  mke2fs:e2fsprogs
  qemu-system-x86_64:qemu-system-x86
  libvirtd:libvirt-daemon
  virt-qemu-run:libvirt-daemon-driver-qemu
  virsh:libvirt-clients
  dnsmasq:dnsmasq-base
  iptables:iptables
  ip:iproute2
  mmdebstrap:mmdebstrap
  fio:fio
  openssl:openssl
  sshd:openssh-server
)
[ "${1:-}" != bench ] || system_packages+=(virtnbdbackup:virtnbdbackup)

building= # directory of an unfinished npm installation
trap '[ -z "$building" ] || rm -rf "$building"' EXIT

say() { printf 'setup: %s\n' "$*" >&2; }

# Tests start their own daemons. None of a package (sshd, libvirtd) is started on the developer's machine: not by its
# installation, and a new sshd not at the next boot either, until `systemctl unmask ssh.service ssh.socket`.
install_quietly='
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap "rm -f $policy" EXIT
    trap "exit 1" HUP INT TERM
    printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 0755 "$policy" || exit
  fi
  case " $* " in *" openssh-server "*)
    [ ! -d /run/systemd/system ] || systemctl mask ssh.service ssh.socket || exit
  esac
  apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"'

install_system_packages() {
  local pair missing=() sudo=()
  for pair in "${system_packages[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      say "please install these packages, then run this again: ${missing[*]}"
      exit 1
    fi
    sudo=(sudo -n)
  fi
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here; please install what Debian calls: ${missing[*]}"
    exit 1
  fi
  say "installing ${missing[*]}; no daemon of them is started (an sshd that comes along stays masked)"
  local log
  log=$(mktemp)
  if ! "${sudo[@]}" sh -c "$install_quietly" install "${missing[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get could not install ${missing[*]} (whole log: $log)"
    exit 1
  fi
  rm -f "$log"
}

install_npm_packages() {
  local cache key entry link
  cache=${TIDEMARK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemark}
  key=$({ cat package.json package-lock.json .npmrc; uname -sm; } | sha256sum | cut -c1-20)
  entry=$cache/npm-$key

  if [ ! -d "$entry/node_modules" ]; then
    say "installing npm packages into $entry"
    mkdir -p "$cache"
    building=$(mktemp -d "$cache/building.XXXXXX")
    cp package.json package-lock.json .npmrc "$building/"
    if ! (cd "$building" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2; then
      say 'npm ci failed; is the package registry reachable, and does package-lock.json fit package.json?'
      exit 1
    fi
    # One rename publishes the entry; whoever comes second keeps the first one's.
    mv -T "$building" "$entry" 2>/dev/null || [ -d "$entry/node_modules" ]
    find "$cache" -maxdepth 1 -name 'npm-*' -mtime +14 ! -path "$entry" -exec rm -rf {} +
  fi
  touch -c "$entry"

  [ "$(readlink node_modules || true)" = "$entry/node_modules" ] && return
  link=.node_modules.$$
  ln -s "$entry/node_modules" "$link"
  if [ -d node_modules ] && [ ! -L node_modules ]; then mv node_modules "$link.old"; fi
  mv -T "$link" node_modules
  rm -rf "$link.old"
  say 'npm packages are in place'
}

install_system_packages
install_npm_packages
