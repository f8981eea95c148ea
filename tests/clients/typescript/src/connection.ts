/** One channel to the server. It reconnects automatically, and any number of calls can share it. */

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

/** The time that a call has in addition to its requested wait, in seconds. */
export const PATIENCE = 10;

/**
 * The calls that are safe to retry: reads, a start with an id, a signal with a request_id, and a cancel. WatchWorkflow
 * is not listed, because a broken watch must resume at its cursor (watching.ts).
 */
const RETRIED = [
  "StartWorkflow",
  "GetWorkflow",
  "ListWorkflows",
  "ListEvents",
  "SignalWorkflow",
  "CancelWorkflow",
];

/** gRPC retries UNAVAILABLE, which a server returns that is starting, shutting down or cannot commit. */
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: RETRIED.map((method) => ({ service: WorkflowServiceClient.serviceName, method })),
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
  // Pings detect a peer that disappeared during a call.
  "grpc.keepalive_time_ms": 30_000,
  // Reconnect soon after a restart of the server. The default wait is up to two minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
};

/** A unary call with gRPC's callback. */
type Method<Request, Reply> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, reply: Reply) => void,
) => ClientUnaryCall;

/** The options of a call. */
interface CallSettings {
  /** The deadline, in seconds from now. Without one, a call to a lost server would never end. */
  within?: number;
  metadata?: Metadata;
}

/** Return the call as a function that returns a promise. */
function promised<Request, Reply>(client: Client, method: Method<Request, Reply>) {
  return (request: Request, { within = PATIENCE, metadata = new Metadata() }: CallSettings = {}): Promise<Reply> =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + within * 1_000;
      method.call(client, request, metadata, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
}

/** The channel and the calls of the tour. */
export class Connection {
  /** The generated client, for streams. */
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

  /** Close the channel, because an open channel keeps Node running. */
  close(): void {
    this.workflows.close();
  }
}
