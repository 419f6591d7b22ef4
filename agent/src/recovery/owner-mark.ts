/** The mark in a domain's metadata by which an agent knows its own VMs again after any crash. */
import type { Element } from '@xmldom/xmldom';
import { z } from 'zod';
import { appendElement, documentOf, elementOf, elementsOf, parseXml } from '../hypervisor/xml-tree.js';

export const ownerNamespace = 'urn:tidemark:owner:1';

export const ownerMarkSchema = z.strictObject({
  /** Name of the target agent. */
  agent: z.string(),
  group: z.string(),
  /** Operation that made it. */
  operation: z.string(),
  purpose: z.enum(['drill', 'live']),
  /** Name of the VM at the source. */
  vm: z.string(),
});
export type OwnerMark = z.infer<typeof ownerMarkSchema>;

const fields = Object.keys(ownerMarkSchema.shape) as (keyof OwnerMark)[];

/** Puts the mark into a domain, in place of an older one. */
export function setMark(domain: Element, mark: OwnerMark): void {
  const metadata = elementOf(domain, 'metadata') ?? appendElement(domain, 'metadata');
  for (const element of elementsOf(metadata))
    if (element.namespaceURI === ownerNamespace) metadata.removeChild(element);
  const element = documentOf(domain).createElementNS(ownerNamespace, 'tidemark:owner');
  for (const name of fields) element.setAttribute(name, mark[name]);
  metadata.appendChild(element);
}

/** What `virsh metadata` printed; undefined when it is no mark. */
export function parseMark(text: string): OwnerMark | undefined {
  const root = parseXml(text, 'owner', 'The metadata');
  const found = ownerMarkSchema.safeParse(Object.fromEntries(fields.map((name) => [name, root.getAttribute(name)])));
  return found.success ? found.data : undefined;
}
