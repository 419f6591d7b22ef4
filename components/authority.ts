/** Who appliances and operators trust: an authority, an operator's certificate of it, and the provider that shows it. */
import * as pulumi from '@pulumi/pulumi';
import { AgentEnrolment, CertificateAuthority, Provider } from './appliance-resources.js';

export interface AuthorityArgs {
  /** An authority of your own, in PEM; its key comes from a secret of the configuration. Default: one that is made. */
  readonly issuer?: { readonly certificate: pulumi.Input<string>; readonly key: pulumi.Input<string> };
  /** Name of the operator that this stack is. Default `operator`. */
  readonly operator?: string;
}

export class Authority extends pulumi.ComponentResource {
  readonly issuer: { readonly certificate: pulumi.Input<string>; readonly key: pulumi.Input<string> };
  /** Name of the operator. */
  readonly operator: string;
  /** Of the operator: also for the command line, `pulumi stack output --show-secrets`. */
  readonly certificate: pulumi.Output<string>;
  /** Secret. */
  readonly key: pulumi.Output<string>;
  /** Of everything that talks to agents of this authority. */
  readonly provider: Provider;

  constructor(name: string, args: AuthorityArgs = {}, options?: pulumi.ComponentResourceOptions) {
    super('tidemark:index:Authority', name, {}, options);
    const parent = { parent: this };
    const { certificate, key } = args.issuer ?? new CertificateAuthority(name, {}, parent);
    this.issuer = { certificate, key: pulumi.secret(key) };
    this.operator = args.operator ?? 'operator';
    const operator = new AgentEnrolment(
      `${name}-${this.operator}`,
      { authority: this.issuer, name: this.operator },
      parent,
    );
    ({ certificate: this.certificate, key: this.key } = operator);
    this.provider = new Provider(
      name,
      { certificate: this.certificate, key: this.key, authority: certificate },
      parent,
    );
    this.registerOutputs({ operator: this.operator });
  }
}
