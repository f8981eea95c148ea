/** Values as the server takes them: JSON as text, or a message in an Any, which carries its type's name. */

import type { Any } from "./gen/google/protobuf/any.js";
import type { Payload } from "./gen/mendflow/v1/payload.js";

/** A generated message type, by what is used of it here. */
export interface MessageType<T> {
  readonly $type: string;
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** A value as the payload that every workflow takes. */
export function asJson(value: unknown): Payload {
  return { kind: { $case: "json", value: JSON.stringify(value) } };
}

/** A message as a payload, for workflows whose types were exported with `mendflow export-protos`. */
export function asMessage<T>(type: MessageType<T>, message: T): Payload {
  return { kind: { $case: "message", value: pack(type, message) } };
}

/** Read a payload's JSON. */
export function fromJson(payload: Payload | undefined): unknown {
  if (payload?.kind?.$case === "message") {
    throw new Error("a message and no JSON");
  }
  // A payload that is absent or empty is null.
  return payload?.kind === undefined ? null : JSON.parse(payload.kind.value);
}

/** Read a payload's message. */
export function fromMessage<T>(type: MessageType<T>, payload: Payload | undefined): T {
  const message = payload?.kind?.$case === "message" ? unpack(type, payload.kind.value) : undefined;
  if (message === undefined) {
    throw new Error(`no ${type.$type}`);
  }
  return message;
}

function pack<T>(type: MessageType<T>, message: T): Any {
  return { typeUrl: `type.googleapis.com/${type.$type}`, value: Buffer.from(type.encode(message).finish()) };
}

/** The message, if it is of this type. */
export function unpack<T>(type: MessageType<T>, packed: Any): T | undefined {
  return packed.typeUrl.endsWith(`/${type.$type}`) ? type.decode(packed.value) : undefined;
}
