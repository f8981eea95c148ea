/** Many concurrent starts. The server commits starts together that arrive together. */

import type { Connection } from "./connection.js";
import { StartWorkflowRequest } from "./gen/mendflow/v1/workflow_service.js";
import { asJson } from "./payloads.js";

const IN_FLIGHT = 32;

/** Start ``count`` empty orders. */
export async function startMany(connection: Connection, name: string, count: number): Promise<void> {
  let next = 1;
  let started = 0;

  async function startNext(): Promise<void> {
    while (next <= count) {
      const workflowId = `${name}-${String(next++).padStart(4, "0")}`;
      const input = asJson({ order_id: workflowId, items: [], ledger: `${name}.db`, packing_time: 0 });
      const request = StartWorkflowRequest.create({ workflowType: "place_order", workflowId, input });
      const reply = await connection.startWorkflow(request);
      started += reply.started ? 1 : 0;
    }
  }

  await Promise.all(Array.from({ length: IN_FLIGHT }, startNext));
  console.log(`starts: ${count} requested, ${started} started`);
}
