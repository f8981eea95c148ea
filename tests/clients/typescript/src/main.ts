/**
 * A tour of Mendflow from TypeScript, on the generated clients alone.
 *
 * run tour ADDRESS NAME            all that a caller does; every workflow id begins with NAME-
 * run watch ADDRESS WORKFLOW_ID    a workflow's events, to its end
 * run starts ADDRESS NAME COUNT    many starts at once
 */

import { Connection } from "./connection.js";
import { startMany } from "./starts.js";
import { Tour } from "./tour.js";
import { printEvent, watch } from "./watching.js";

const USAGE = "usage: run tour ADDRESS NAME | run watch ADDRESS WORKFLOW_ID | run starts ADDRESS NAME COUNT";

async function run(mode: string | undefined, connection: Connection, name: string, count: string): Promise<void> {
  switch (mode) {
    case "tour":
      return new Tour(connection, name).run();
    case "watch":
      for await (const event of watch(connection, name)) {
        printEvent(event);
      }
      return;
    case "starts":
      return startMany(connection, name, Number(count));
    default:
      throw new Error(USAGE);
  }
}

const [mode, address, name, count = "0"] = process.argv.slice(2);
if (address === undefined || name === undefined) {
  throw new Error(USAGE);
}
const connection = new Connection(address);
try {
  await run(mode, connection, name, count);
} finally {
  connection.close();
}
