/** The script that libvirt asks before it starts a VM. */

/** Name of the file in libvirt's `hooks/qemu.d`. */
export const hookFileName = 'tidemark';

/** `directory`: where the agent keeps what it knows of stale groups (`DATADIRECTORY/fenced`). */
export function hookScript(directory: string): string {
  return `#!/bin/sh
# Written by \`tidemark vm hook install\`: refuses to start a VM whose group was failed over to the other site.
# From libvirt: name of the VM, operation; its definition on standard input.
[ "$2" = prepare ] || exit 0
uuid=$(sed -n 's:.*<uuid>\\(.*\\)</uuid>.*:\\1:p' | head -n 1)
if grep -qsxF -e "$1" -e "\${uuid:-$1}" ${quote(directory)}/*.vms; then
  echo "tidemark: $1 was failed over to the other site; what is here is stale. See: tidemark status" >&2
  exit 1
fi
exit 0
`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\\\''")}'`;
}
