/** An error status with its details: messages of google.rpc for programs, and text for people. */

import { type ServiceError, status } from "@grpc/grpc-js";
import { Status } from "./gen/google/rpc/status.js";
import { type MessageType, unpack } from "./payloads.js";

/** The error of a refused call. */
export class Refusal {
  readonly code: string;
  private readonly details;

  constructor(error: ServiceError) {
    this.code = status[error.code] ?? String(error.code);
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    // An error that gRPC itself raised has no details.
    this.details = bytes instanceof Uint8Array ? Status.decode(bytes).details : [];
  }

  /** Return the detail of this type. */
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

/** Wait for a call that the server must refuse, and return the error. */
export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    if (isServiceError(error)) {
      return new Refusal(error);
    }
    throw error;
  }
  throw new Error("the call was not refused");
}

/** Return true for an error of gRPC, and false for a bug in the program. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}
