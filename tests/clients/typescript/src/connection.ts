/** One channel to the server. It is made once: it connects again by itself, and any number of calls may share it. */

import {
  type CallOptions,
  type Client,
  type ClientUnaryCall,
  credentials,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { HealthClient } from "./gen/health/v1/health.js";
import { WorkflowServiceClient } from "./gen/mendflow/v1/workflow_service.js";

/** How long a call may take over and above what it asks the server to wait, in seconds. */
export const PATIENCE = 10;

/**
 * What is safe to ask twice: what only reads, a start under an id, a signal under a request_id, and a cancellation.
 * Not WatchWorkflow: a watch that broke goes on from its cursor (watching.ts).
 */
const ASKED_AGAIN = [
  "StartWorkflow",
  "GetWorkflow",
  "ListWorkflows",
  "ListEvents",
  "SignalWorkflow",
  "CancelWorkflow",
];

/** UNAVAILABLE is a server that starts, drains or cannot commit: gRPC asks again, and the caller sees nothing of it. */
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: ASKED_AGAIN.map((method) => ({ service: WorkflowServiceClient.serviceName, method })),
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

const CHANNEL_OPTIONS = {
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  // A peer that vanished without a word is noticed while a call is open.
  "grpc.keepalive_time_ms": 30_000,
  // A server that is back is found soon; left alone, the channel would wait up to two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
};

/** A call with one answer, as gRPC's callbacks have it. */
type Method<Request, Reply> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, reply: Reply) => void,
) => ClientUnaryCall;

/** What a call may be given beside its request. */
interface Manner {
  /** The deadline, in seconds from now. Every call has one: without it a lost server is waited for without end. */
  within?: number;
  metadata?: Metadata;
}

/** The same call as a promise. */
function promised<Request, Reply>(client: Client, method: Method<Request, Reply>) {
  return (request: Request, { within = PATIENCE, metadata = new Metadata() }: Manner = {}): Promise<Reply> =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + within * 1_000;
      method.call(client, request, metadata, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
}

/** The channel, and what the tour calls on it. */
export class Connection {
  /** The generated client; its streams are used as they are. */
  readonly workflows;
  readonly health;

  readonly startWorkflow;
  readonly getWorkflow;
  readonly listWorkflows;
  readonly listEvents;
  readonly signalWorkflow;
  readonly cancelWorkflow;
  readonly checkHealth;

  constructor(address: string) {
    const insecure = credentials.createInsecure();
    const workflows = new WorkflowServiceClient(address, insecure, CHANNEL_OPTIONS);
    const health = new HealthClient(address, insecure, { channelOverride: workflows.getChannel() });
    this.workflows = workflows;
    this.health = health;
    this.startWorkflow = promised(workflows, workflows.startWorkflow);
    this.getWorkflow = promised(workflows, workflows.getWorkflow);
    this.listWorkflows = promised(workflows, workflows.listWorkflows);
    this.listEvents = promised(workflows, workflows.listEvents);
    this.signalWorkflow = promised(workflows, workflows.signalWorkflow);
    this.cancelWorkflow = promised(workflows, workflows.cancelWorkflow);
    this.checkHealth = promised(health, health.check);
  }

  /** An open channel keeps Node from ending. */
  close(): void {
    this.workflows.close();
  }
}
