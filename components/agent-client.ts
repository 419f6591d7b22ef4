/** The Pulumi side's one way to an agent: its API. */
export { AgentClient } from '../agent/src/client/agent-client.js';
export type { ConnectionOptions } from '../agent/src/client/connection.js';
export { isTidemarkError, TidemarkError, type ErrorCode } from '../agent/src/core/errors.js';
export type { AgentInfo, Health, PeerStatus } from '../agent/src/service/agent-schemas.js';
export type { Checkpoint, CheckpointPage, CheckpointSelector } from '../agent/src/service/checkpoint-schemas.js';
export type { AgentEvent, EventPage } from '../agent/src/service/event-schemas.js';
export type { GroupState, GroupStatus } from '../agent/src/service/group-schemas.js';
export type { RetiredGroup, TargetGroupSpec } from '../agent/src/service/group-spec.js';
export type { Operation, OperationKind, OperationRequest } from '../agent/src/service/operation-schemas.js';
export type { ViewRequest, ViewStatus } from '../agent/src/service/view-schemas.js';
