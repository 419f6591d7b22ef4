/** Speaks to the inspector of a Node process, for what production code has no hook for. */
export interface Debuggee extends Disposable {
  /** Does not wait for an answer. */
  evaluate(expression: string): void;
}

export async function openInspector(url: string): Promise<Debuggee> {
  const socket = new WebSocket(url);
  await new Promise<void>((resolve, reject) => {
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error(`cannot connect to ${url}`));
  });
  return {
    evaluate: (expression) =>
      socket.send(JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } })),
    [Symbol.dispose]: () => socket.close(),
  };
}
