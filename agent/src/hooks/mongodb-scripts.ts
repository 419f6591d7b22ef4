/**
 * Scripts of the hook mongodb in the guest. The lock of MongoDB does not end with its connection; so the guest itself unlocks
 * after a while: a shell of its own session that sleeps, started before the lock. Killing that sleep proves that the guest
 * had not unlocked before. Where such a shell is found later, a lock may be ours; where none is, none is ours.
 */

/** Name of the shell that sleeps. */
export const timerName = 'tidemark-unlock';

/** Unlocks once when it is locked. */
export const unlockJs = `var a = db.getSiblingDB('admin');
if (a.runCommand({ currentOp: 1 }).fsyncLock === true) { var u = a.runCommand({ fsyncUnlock: 1 }); if (u.ok !== 1) throw u;
print('tm-' + 'unlocked ' + Number(u.lockCount)); } else print('tm-' + 'not-locked');`.replaceAll('\n', ' ');

/** Errors are told in one line, in the server's own words. */
export function guarded(js: string): string {
  return `try { ${js} } catch (e) { print('tm-' + 'error ' + (e.codeName || '') + ' ' + (e.errmsg || e.message || e)); }`;
}

/**
 * `sh SECONDS CLIENT…`, the statements as input: prints the pid of the sleep. It tries again while somebody may still be
 * given the lock that was asked for. The shell leaves the guest agent's service.
 */
export const timerScript = `unlock=$(cat); export unlock
timer='for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/systemd/cgroup.procs; do
  [ ! -w "$group" ] || echo $$ >"$group"
done 2>/dev/null
sleep "$1" </dev/null >/dev/null 2>&1 &
echo $!
exec </dev/null >/dev/null 2>&1
wait $!
[ $? -le 128 ] || exit 0
shift
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  case $(printf "%s\\n" "$unlock" | timeout -s KILL 30 "$@" 2>&1) in *tm-unlocked*) exit 0 ;; esac
  sleep 1
done'
echo "timer $(setsid /bin/sh -c "$timer" ${timerName} "$@" </dev/null 2>/dev/null &)"`;

/** `sh PID SECONDS`; the sleep may not have begun yet. */
export const endTimerScript = `case $(tr '\\0' ' ' <"/proc/$1/cmdline" 2>/dev/null) in
  "sleep $2 " | *' ${timerName} '*) kill -KILL "$1" && echo 'timer unfired' || echo 'timer fired' ;;
  *) echo 'timer fired' ;;
esac`;

/** Prints the process groups of timers that are there; `sh end` ends them. */
export const timersScript = `for process in /proc/[0-9]*; do
  case $(tr '\\0' ' ' <"$process/cmdline" 2>/dev/null) in
    *' ${timerName} '*)
      [ "$process" != "/proc/$$" ] || continue
      echo "timer \${process#/proc/}"
      [ "$1" != end ] || kill -KILL "-\${process#/proc/}" 2>/dev/null ;;
  esac
done
true`;
