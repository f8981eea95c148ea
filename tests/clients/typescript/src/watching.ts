/** A watch that yields each event of a workflow once, also across restarts of the server. */

import { setTimeout as sleep } from "node:timers/promises";
import { type ServiceError, status } from "@grpc/grpc-js";
import type { Connection } from "./connection.js";
import type { Event } from "./gen/mendflow/v1/event.js";
import { WatchWorkflowRequest, type WatchWorkflowResponse } from "./gen/mendflow/v1/workflow_service.js";
import { isServiceError } from "./refusal.js";

/** The pause before a reconnect, in milliseconds. */
const PAUSE = 200;

/** Yield each event, and return after the final event. */
export async function* watch(connection: Connection, workflowId: string): AsyncGenerator<Event> {
  // The cursor is the only state of a watch. A program that can crash stores it in a file.
  let afterSequence = 0;
  let ended = false;
  while (!ended) {
    const request = WatchWorkflowRequest.create({ workflowId, afterSequence });
    const stream = connection.workflows.watchWorkflow(request);
    // grpc-js types the values of a stream as any. This annotation gives them a type.
    const frames: AsyncIterable<WatchWorkflowResponse> = stream;
    try {
      for await (const frame of frames) {
        for (const event of frame.events) {
          yield event;
          ended ||= isFinal(event);
        }
        // Use the frame's cursor, not its last event: a heartbeat has a cursor but no events, and with
        // a filter the cursor also passes the excluded events.
        afterSequence = frame.lastSequence;
      }
    } catch (error) {
      if (!isServiceError(error) || !isRetryable(error)) {
        throw error;
      }
    } finally {
      // Leaving the loop early does not cancel the call.
      stream.cancel();
    }
    if (!ended) {
      await sleep(PAUSE);
    }
  }
}

/**
 * Return whether a retry can succeed, because the server crashed, is shutting down or has not started. A proxy can
 * reset a stream without a status, which grpc-js reports as INTERNAL. A retry does not help for other codes such as
 * NOT_FOUND.
 */
function isRetryable(error: ServiceError): boolean {
  return (
    error.code === status.UNAVAILABLE ||
    error.code === status.CANCELLED || // from gRPC, when the server stops
    (error.code === status.INTERNAL && error.details.startsWith("Received RST_STREAM"))
  );
}

function isFinal(event: Event): boolean {
  switch (event.detail?.$case) {
    case "workflowSucceeded":
    case "workflowFailed":
    case "workflowCancelled":
    case "workflowTerminated":
      return true;
    default:
      return false;
  }
}

/** Print an event. */
export function printEvent(event: Event): void {
  // A kind from a newer server is not an error.
  const kind = event.detail?.$case ?? "something_newer";
  console.log(`watch: ${event.sequence} ${kind.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`);
}
