/** A workflow's events from the first to the last, each once, whatever becomes of the server in between. */

import { setTimeout as sleep } from "node:timers/promises";
import { type ServiceError, status } from "@grpc/grpc-js";
import type { Connection } from "./connection.js";
import type { Event } from "./gen/mendflow/v1/event.js";
import { WatchWorkflowRequest, type WatchWorkflowResponse } from "./gen/mendflow/v1/workflow_service.js";
import { isServiceError } from "./refusal.js";

/** How long to leave a server alone that was not there, in milliseconds. */
const PAUSE = 200;

/** Yield each event, and return after the final one. */
export async function* watch(connection: Connection, workflowId: string): AsyncGenerator<Event> {
  // The cursor is all that a watch must remember. A program that itself may die keeps it on disk.
  let afterSequence = 0;
  let ended = false;
  while (!ended) {
    const request = WatchWorkflowRequest.create({ workflowId, afterSequence });
    const stream = connection.workflows.watchWorkflow(request);
    // For the compiler, what comes out of a stream of grpc-js is any; this says what it is.
    const frames: AsyncIterable<WatchWorkflowResponse> = stream;
    try {
      for await (const frame of frames) {
        for (const event of frame.events) {
          yield event;
          ended ||= isFinal(event);
        }
        // Of the frame, not of its last event: a frame without events is a sign of life and has a cursor too, and with
        // a filter the cursor passes the events that were left out.
        afterSequence = frame.lastSequence;
      }
    } catch (error) {
      if (!isServiceError(error) || !passes(error)) {
        throw error;
      }
    } finally {
      // Leaving the loop early does not hang up: the call would stay open.
      stream.cancel();
    }
    if (!ended) {
      await sleep(PAUSE);
    }
  }
}

/**
 * Whether asking again helps: the server died, drains or is not up yet. A stream that was reset without a status, as a
 * proxy in between may do, is INTERNAL for grpc-js. Anything else (NOT_FOUND, say) will not pass by waiting.
 */
function passes(error: ServiceError): boolean {
  return (
    error.code === status.UNAVAILABLE ||
    error.code === status.CANCELLED || // not by this program: gRPC's own, from a server that stops
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

/** Print an event as the modes watch and tour show it. */
export function printEvent(event: Event): void {
  // A newer server may have kinds that this program does not know: they are no error.
  const kind = event.detail?.$case ?? "something_newer";
  console.log(`watch: ${event.sequence} ${kind.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`);
}
