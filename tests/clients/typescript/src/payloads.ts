/** Payloads for the server: JSON as text, or a message in an Any, which has the name of its type. */

import type { Any } from "./gen/google/protobuf/any.js";
import type { Payload } from "./gen/mendflow/v1/payload.js";

/** The part of a generated message type that this program uses. */
export interface MessageType<T> {
  readonly $type: string;
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** Return a value as a JSON payload, which every workflow accepts. */
export function asJson(value: unknown): Payload {
  return { kind: { $case: "json", value: JSON.stringify(value) } };
}

/** Return a message as a payload, for workflow types that were exported with `mendflow export-protos`. */
export function asMessage<T>(type: MessageType<T>, message: T): Payload {
  return { kind: { $case: "message", value: pack(type, message) } };
}

/** Return a payload's JSON value. */
export function fromJson(payload: Payload | undefined): unknown {
  if (payload?.kind?.$case === "message") {
    throw new Error("the payload is a message, not JSON");
  }
  // A payload that is absent or empty is null.
  return payload?.kind === undefined ? null : JSON.parse(payload.kind.value);
}

/** Return a payload's message. */
export function fromMessage<T>(type: MessageType<T>, payload: Payload | undefined): T {
  const message = payload?.kind?.$case === "message" ? unpack(type, payload.kind.value) : undefined;
  if (message === undefined) {
    throw new Error(`the payload is not a ${type.$type}`);
  }
  return message;
}

function pack<T>(type: MessageType<T>, message: T): Any {
  return { typeUrl: `type.googleapis.com/${type.$type}`, value: Buffer.from(type.encode(message).finish()) };
}

/** Return the message, or undefined if it has another type. */
export function unpack<T>(type: MessageType<T>, packed: Any): T | undefined {
  return packed.typeUrl.endsWith(`/${type.$type}`) ? type.decode(packed.value) : undefined;
}
