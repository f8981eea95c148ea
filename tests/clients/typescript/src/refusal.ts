/** A status that is not OK, with its details: messages of google.rpc for programs, beside the text for people. */

import { type ServiceError, status } from "@grpc/grpc-js";
import { Status } from "./gen/google/rpc/status.js";
import { type MessageType, unpack } from "./payloads.js";

/** What a call was refused with. */
export class Refusal {
  readonly code: string;
  private readonly details;

  constructor(error: ServiceError) {
    this.code = status[error.code] ?? String(error.code);
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    // There are none when the error is gRPC's own and not the server's.
    this.details = bytes instanceof Uint8Array ? Status.decode(bytes).details : [];
  }

  /** The detail of this type. */
  detail<T>(type: MessageType<T>): T {
    for (const packed of this.details) {
      const message = unpack(type, packed);
      if (message !== undefined) {
        return message;
      }
    }
    throw new Error(`${this.code} without ${type.$type}`);
  }
}

/** Wait for a call that is expected to be refused. */
export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    if (isServiceError(error)) {
      return new Refusal(error);
    }
    throw error;
  }
  throw new Error("it was not refused");
}

/** Whether this is gRPC's error, and no fault of the program. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}
