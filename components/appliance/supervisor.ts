/** The script that keeps an agent running where no systemd does: `service DIRECTORY MOUNTPOINT`. */
export const supervisorScript = `#!/bin/sh
# Keeps the Tidemark agent of this directory running. TERM ends both; HUP reloads the agent.
dir=$1
mount=$2
stopping=
child=
starts=0
echo $$ >"$dir/service.pid"
trap 'stopping=1; [ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM INT
trap '[ -n "$child" ] && kill -HUP "$child" 2>/dev/null' HUP
while [ -z "$stopping" ]; do
  if [ -n "$mount" ] && ! mountpoint -q "$mount"; then
    sh "$mount.mount" "$mount" >>"$dir/agent.log" 2>&1 || { sleep 5 & wait $!; continue; }
  fi
  [ "$(stat -c %s "$dir/agent.log" 2>/dev/null || echo 0)" -lt 16777216 ] || mv -f "$dir/agent.log" "$dir/agent.log.1"
  starts=$((starts + 1))
  echo $starts >"$dir/service.starts"
  MALLOC_ARENA_MAX=2 "$dir/current/tidemark" agent run --config "$dir/current/agent.yaml" >>"$dir/agent.log" 2>&1 &
  child=$!
  echo "$child" >"$dir/agent.pid"
  [ -z "$stopping" ] || kill -TERM "$child" 2>/dev/null
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  child=
  [ -n "$stopping" ] || { sleep 1 & wait $!; }
done
rm -f "$dir/service.pid" "$dir/service.starts" "$dir/agent.pid"
`;
