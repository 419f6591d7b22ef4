/** A few words over @xmldom/xmldom: it knows no selectors, and warns on the console unless told. */
import { DOMParser, XMLSerializer, type Document, type Element } from '@xmldom/xmldom';
import { TidemarkError } from '../core/errors.js';

/** The root element; throws `hypervisor-failed` with `what` when the text is no XML of that root. */
export function parseXml(text: string, root: string, what: string): Element {
  const problems: string[] = [];
  const note = (message: unknown): void => void problems.push(String(message));
  const parser = new DOMParser({ onError: (_level, message) => note(message) });
  let element: Element | null = null;
  try {
    element = parser.parseFromString(text, 'text/xml')?.documentElement ?? null;
  } catch (error) {
    note(error);
  }
  if (element !== null && element.tagName === root && problems.length === 0) return element;
  throw new TidemarkError('hypervisor-failed', `${what} is no <${root}>: ${problems[0] ?? 'another root'}`);
}

export function printXml(element: Element): string {
  return new XMLSerializer().serializeToString(element);
}

export function elementsOf(parent: Element, name?: string): Element[] {
  const found: Element[] = [];
  for (let node = parent.firstChild; node !== null; node = node.nextSibling)
    if (node.nodeType === 1 && (name === undefined || (node as Element).tagName === name)) found.push(node as Element);
  return found;
}

/** First child of that name; a path of names goes down. */
export function elementOf(parent: Element, ...path: readonly string[]): Element | undefined {
  let at: Element | undefined = parent;
  for (const name of path) at = at === undefined ? undefined : elementsOf(at, name)[0];
  return at;
}

/** Attribute of the child at `path`; undefined when either is not there. */
export function attributeOf(parent: Element, path: readonly string[], name: string): string | undefined {
  const element = elementOf(parent, ...path);
  return element?.hasAttribute(name) === true ? element.getAttribute(name)! : undefined;
}

export function textOf(parent: Element, ...path: readonly string[]): string | undefined {
  return elementOf(parent, ...path)?.textContent?.trim();
}

export function removeElements(parent: Element, ...names: readonly string[]): void {
  for (const element of elementsOf(parent)) if (names.includes(element.tagName)) parent.removeChild(element);
}

export function appendElement(
  parent: Element,
  name: string,
  attributes: Readonly<Record<string, string>> = {},
  text?: string,
): Element {
  const element = documentOf(parent).createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.appendChild(documentOf(parent).createTextNode(text));
  parent.appendChild(element);
  return element;
}

/** Sets the text of the first child of that name, which is made when missing. */
export function setText(parent: Element, name: string, text: string): void {
  replaceText(elementOf(parent, name) ?? appendElement(parent, name), text);
}

export function replaceText(element: Element, text: string): void {
  while (element.firstChild !== null) element.removeChild(element.firstChild);
  element.appendChild(documentOf(element).createTextNode(text));
}

/** Every element that was parsed has one. */
export function documentOf(element: Element): Document {
  return element.ownerDocument as Document;
}
