#!/usr/bin/env bash
# Provides the Pulumi CLI and its language hosts for Node.js and YAML, and prints the directory to put before PATH.
# A tool that PATH has already is taken from there. Others are built from their Go modules (scripts/pulumi-tools/*/go.mod,
# pinned by go.sum) into the cache outside the checkout: minutes the first time, nothing afterwards.
# Ends with 3 when something has to be built and there is no Go. `--check`: says only whether it could.
set -euo pipefail
cd "$(dirname "$0")/pulumi-tools"

# command : folder of its go.mod : package : flags of the linker
tools=(
  pulumi:cli:github.com/pulumi/pulumi/pkg/v3/cmd/pulumi:github.com/pulumi/pulumi/sdk/v3
  pulumi-language-nodejs:language-nodejs:github.com/pulumi/pulumi/sdk/v3/nodejs/cmd/pulumi-language-nodejs:github.com/pulumi/pulumi/sdk/v3
  pulumi-language-yaml:language-yaml:github.com/pulumi/pulumi-yaml/cmd/pulumi-language-yaml:github.com/pulumi/pulumi-yaml
)

say() { printf 'pulumi-tools: %s\n' "$*" >&2; }

cache=${TIDEMARK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemark}
key=$({ cat ./*/go.mod ./*/go.sum; uname -sm; } | sha256sum | cut -c1-20)
bin=$cache/pulumi-$key
mkdir -p "$bin"

build() {
  local name=$1 folder=$2 package=$3 module=$4 version
  version=$(cd "$folder" && go list -m -f '{{.Version}}' "$module")
  say "building $name $version (minutes, the first time)"
  (cd "$folder" && nice -n 10 go build -trimpath -ldflags "-s -w -X $module/go/common/version.Version=$version \
    -X $module/pkg/version.Version=$version" -o "$bin/.$name.$$" "$package") >&2
  mv "$bin/.$name.$$" "$bin/$name"
}

exec 9>"$bin/.lock"
for tool in "${tools[@]}"; do
  IFS=: read -r name folder package module <<<"$tool"
  [ -x "$bin/$name" ] && continue
  command -v "$name" >/dev/null && continue
  if ! command -v go >/dev/null; then
    say "$name is neither on PATH nor in the cache, and there is no Go to build it"
    exit 3
  fi
  [ "${1:-}" = --check ] && continue
  flock 9 # whoever waited finds it built
  [ -x "$bin/$name" ] || build "$name" "$folder" "$package" "$module"
done
[ "${1:-}" = --check ] && exit
touch -c "$bin"
printf '%s\n' "$bin"
