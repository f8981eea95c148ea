/**
 * A tour of Mendflow from TypeScript, on the generated clients alone.
 *
 * run tour ADDRESS NAME            everything that a caller does; each workflow id starts with NAME-
 * run watch ADDRESS WORKFLOW_ID    a workflow's events until it ends
 * run starts ADDRESS NAME COUNT    many concurrent starts
 */

import { Connection } from "./connection.js";
import { startMany } from "./starts.js";
import { Tour } from "./tour.js";
import { printEvent, watch } from "./watching.js";

const USAGE = "usage: run tour ADDRESS NAME | run watch ADDRESS WORKFLOW_ID | run starts ADDRESS NAME COUNT";

async function run(mode: string, connection: Connection, name: string, count: number): Promise<void> {
  switch (mode) {
    case "tour":
      return new Tour(connection, name).run();
    case "watch":
      for await (const event of watch(connection, name)) {
        printEvent(event);
      }
      return;
    case "starts":
      return startMany(connection, name, count);
  }
}

const [mode, address, name, count] = process.argv.slice(2);
const isComplete = mode === "starts" ? Number(count) > 0 : mode === "tour" || mode === "watch";
if (isComplete && mode !== undefined && address !== undefined && name !== undefined) {
  const connection = new Connection(address);
  try {
    await run(mode, connection, name, Number(count));
  } finally {
    connection.close();
  }
} else {
  console.error(USAGE);
  process.exitCode = 2;
}
