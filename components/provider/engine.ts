/** What the provider tells the engine while it works: messages of a resource and its status line, secrets left out. */
import grpc from '@grpc/grpc-js';
import services from '@pulumi/pulumi/proto/engine_grpc_pb.js';
import messages from '@pulumi/pulumi/proto/engine_pb.js';

export type Severity = 'debug' | 'info' | 'warning' | 'error';

/** Tells about one resource. */
export interface Teller {
  /** Stays on the terminal, once. */
  say(severity: Severity, text: string): Promise<void>;
  /** Replaces the status line of the resource. */
  status(text: string): void;
}

const severities = {
  debug: messages.LogSeverity.DEBUG,
  info: messages.LogSeverity.INFO,
  warning: messages.LogSeverity.WARNING,
  error: messages.LogSeverity.ERROR,
};
/** A text shorter than this would tear words apart if it were left out everywhere. */
const secretLengthMin = 4;

export class Engine {
  readonly #client: InstanceType<typeof services.EngineClient>;
  readonly #secrets = new Set<string>();

  constructor(address: string) {
    this.#client = new services.EngineClient(address, grpc.credentials.createInsecure(), {
      'grpc.max_receive_message_length': 400 * 1024 * 1024,
    });
  }

  /** No message shows these texts from now on. */
  hide(texts: readonly string[]): void {
    for (const text of texts) if (text.length >= secretLengthMin) this.#secrets.add(text);
  }

  redact(text: string): string {
    let clean = text;
    for (const secret of this.#secrets) clean = clean.replaceAll(secret, '[secret]');
    return clean;
  }

  about(urn: string): Teller {
    return {
      say: (severity, text) => this.#log(urn, severity, text, false),
      status: (text) => void this.#log(urn, 'info', text, true),
    };
  }

  close(): void {
    this.#client.close();
  }

  /** A message that is lost (the engine is gone) must not fail what it is about. */
  #log(urn: string, severity: Severity, text: string, ephemeral: boolean): Promise<void> {
    const request = new messages.LogRequest();
    request.setSeverity(severities[severity]);
    request.setMessage(this.redact(text));
    request.setUrn(urn);
    request.setEphemeral(ephemeral);
    return new Promise((resolve) => this.#client.log(request, () => resolve()));
  }
}
