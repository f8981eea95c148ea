/** Everything that a caller does with the server, in sequence. */

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Metadata } from "@grpc/grpc-js";
import { type Connection, PATIENCE } from "./connection.js";
import { PlaceOrderInput, PlaceOrderOutput } from "./gen/examples/order/v1/order.js";
import { BadRequest, ErrorInfo, ResourceInfo } from "./gen/google/rpc/error_details.js";
import { HealthCheckRequest, type HealthCheckResponse } from "./gen/health/v1/health.js";
import { type Event, type ProgressReported, StateReason } from "./gen/mendflow/v1/event.js";
import type { Payload } from "./gen/mendflow/v1/payload.js";
import type { Workflow } from "./gen/mendflow/v1/workflow.js";
import {
  CancelWorkflowRequest,
  GetWorkflowRequest,
  ListEventsRequest,
  ListWorkflowsRequest,
  SignalWorkflowRequest,
  StartWorkflowRequest,
} from "./gen/mendflow/v1/workflow_service.js";
import { asJson, asMessage, fromJson, fromMessage } from "./payloads.js";
import { refusalOf } from "./refusal.js";
import { printEvent, watch } from "./watching.js";

/** How long a call asks the server to wait for a workflow's end, in seconds. At most 60; call again to wait longer. */
const WAIT = 30;
/** A call's deadline is later than the wait that it requests. */
const WITHIN = { within: WAIT + PATIENCE };

/** A line of an order, as JSON. */
interface Item {
  sku: string;
  price_cents: number;
  weight_kg: number;
  quantity?: number;
}

/** The output, as JSON. */
interface Receipt {
  charged_cents: number;
  parcels: string[];
}

const LAMP: Item = { sku: "lamp", price_cents: 4_900, weight_kg: 2.5 };
const HEAVY_CHAIR: Item = { sku: "chair", price_cents: 12_000, weight_kg: 100 };
/** So expensive that the order waits for the signal approve. */
const DESK: Item = { sku: "desk", price_cents: 150_000, weight_kg: 40 };

/** The tour. Its workflow ids start with its name. */
export class Tour {
  constructor(
    private readonly connection: Connection,
    private readonly name: string,
  ) {}

  async run(): Promise<void> {
    await this.health();
    await this.startAndWait();
    await this.typed();
    await this.trace();
    await this.refusals();
    await this.failure();
    await this.deadline();
    await this.signal();
    await this.watch();
    await this.cancel();
    await this.pages();
  }

  /** Check whether the server is ready, like a load balancer. */
  private async health(): Promise<void> {
    const reply = await this.connection.checkHealth({ service: "" });
    console.log(`health: ${reply.status}`);
    const refusal = await refusalOf(this.connection.checkHealth({ service: "nothing" }));
    console.log(`health of nothing: ${refusal.code}`);
    // Watch streams each change until the call is cancelled.
    const stream = this.connection.health.watch(HealthCheckRequest.create());
    const changes: AsyncIterable<HealthCheckResponse> = stream;
    for await (const change of changes) {
      console.log(`health watch: ${change.status}`);
      break;
    }
    // Leaving the loop does not cancel the call.
    stream.cancel();
  }

  /** Start a workflow and get its result in one call. */
  private async startAndWait(): Promise<void> {
    const request = this.start("now", this.order("now", { ...LAMP, quantity: 2 }), WAIT);
    const reply = await this.connection.startWorkflow(request, WITHIN);
    const receipt = fromJson(reply.workflow?.output) as Receipt;
    const paid = `${receipt.charged_cents} cents, ${receipt.parcels.length} parcel(s)`;
    console.log(`start and wait: ${state(reply.workflow)}, ${started(reply)}, ${paid}`);
    // A retry after a lost reply is safe: it returns the existing workflow.
    const again = await this.connection.startWorkflow(request, WITHIN);
    const same = again.workflow?.uid === reply.workflow?.uid ? "same execution" : "another execution";
    console.log(`start again: ${state(again.workflow)}, ${started(again)}, ${same}`);
  }

  /** Start a workflow with a message. The compiler finds a wrong field name. */
  private async typed(): Promise<void> {
    const order = PlaceOrderInput.create({
      orderId: this.id("typed"),
      items: [{ sku: LAMP.sku, priceCents: LAMP.price_cents, weightKg: LAMP.weight_kg }],
      ledger: `${this.name}.db`,
      packingTime: 0,
    });
    const request = this.start("typed", asMessage(PlaceOrderInput, order), WAIT);
    const { workflow } = await this.connection.startWorkflow(request, WITHIN);
    // If the input is a message, the output is a message too.
    const receipt = fromMessage(PlaceOrderOutput, workflow?.output);
    console.log(`typed: ${state(workflow)}, ${receipt.chargedCents} cents, ${receipt.parcels.length} parcel(s)`);
  }

  /** Make the workflow's spans children of the caller's span. */
  private async trace(): Promise<void> {
    // OpenTelemetry's instrumentation of grpc-js sets this header automatically.
    const traceId = randomBytes(16).toString("hex");
    const metadata = new Metadata();
    metadata.set("traceparent", `00-${traceId}-${randomBytes(8).toString("hex")}-01`);
    const { workflow } = await this.connection.startWorkflow(this.start("traced", this.order("traced", LAMP)), {
      metadata,
    });
    console.log(`trace: ${workflow?.traceId === traceId ? "continued" : "lost"}`);
  }

  /** Read errors. Programs use the code and the reason in ErrorInfo; the message is for people. */
  private async refusals(): Promise<void> {
    const otherInput = this.start("now", this.order("now", { ...LAMP, quantity: 1 }));
    const other = await refusalOf(this.connection.startWorkflow(otherInput));
    const info = other.detail(ErrorInfo);
    console.log(`other input: ${other.code}, ${info.reason} of ${info.domain}, differs: ${info.metadata["differs"]}`);

    const badInput = this.start("bad", this.order("bad", { ...LAMP, quantity: 0 }));
    const bad = await refusalOf(this.connection.startWorkflow(badInput));
    const fields = bad.detail(BadRequest).fieldViolations.map((violation) => violation.field);
    console.log(`bad input: ${bad.code}, ${bad.detail(ErrorInfo).reason}, ${fields.join("; ")}`);

    const none = await refusalOf(this.connection.getWorkflow(this.get("nothing")));
    const resource = this.cut(none.detail(ResourceInfo).resourceName);
    console.log(`no workflow: ${none.code}, ${none.detail(ErrorInfo).reason}, ${resource}`);
  }

  /** Read the failure of a workflow. The call itself succeeds. */
  private async failure(): Promise<void> {
    const request = this.start("heavy", this.order("heavy", HEAVY_CHAIR), WAIT);
    const { workflow } = await this.connection.startWorkflow(request, WITHIN);
    const failure = workflow?.failure;
    const kind = failure?.kind.replace("FAILURE_KIND_", "");
    const what = this.cut(`${failure?.type}: ${failure?.message}, step ${failure?.stepKey}`);
    console.log(`failure: ${state(workflow)}, ${kind}, ${what}`);
  }

  /** Stop waiting. The deadline ends only the call, not the workflow. */
  private async deadline(): Promise<void> {
    await this.connection.startWorkflow(this.start("big", this.order("big", DESK, 3)));
    const refusal = await refusalOf(this.connection.getWorkflow(this.get("big", 60), { within: 0.3 }));
    console.log(`deadline: ${refusal.code}`);
  }

  /** Send a workflow the signal that it waits for. */
  private async signal(): Promise<void> {
    const request = SignalWorkflowRequest.create({
      workflowId: this.id("big"),
      name: "approve",
      data: asJson({ by: "clients" }),
      // Without it, a retry after a lost reply would send a second signal.
      requestId: this.id("approval"),
    });
    const first = await this.connection.signalWorkflow(request);
    const second = await this.connection.signalWorkflow(request);
    const said = [first, second].map((reply) => (reply.duplicate ? "duplicate" : "new"));
    console.log(`signal: ${said.join(", then ")}`);
  }

  /** Watch the workflow until it ends, also across restarts of the server. */
  private async watch(): Promise<void> {
    const reports: ProgressReported[] = [];
    for await (const event of watch(this.connection, this.id("big"))) {
      printEvent(event);
      if (event.detail?.$case === "progressReported") {
        reports.push(event.detail.value);
      }
    }
    for (const report of reports) {
      console.log(`progress: ${report.done} of ${report.total}: ${report.message}`);
    }
  }

  /** Cancel a workflow, which then undoes its completed steps. */
  private async cancel(): Promise<void> {
    await this.connection.startWorkflow(this.start("unwanted", this.order("unwanted", DESK)));
    await this.awaitSignal("unwanted");
    await this.connection.cancelWorkflow(
      CancelWorkflowRequest.create({ workflowId: this.id("unwanted"), reason: "not wanted any more" }),
    );
    // The reply means that the request is committed. The clean-up takes longer.
    const { workflow } = await this.connection.getWorkflow(this.get("unwanted", WAIT), WITHIN);
    let undone = false;
    for await (const { detail } of this.events("unwanted")) {
      undone ||= detail?.$case === "attemptSucceeded" && detail.value.stepKey.startsWith("release");
    }
    console.log(`cancel: ${state(workflow)}, ${undone ? "undone" : "not undone"}`);
  }

  /** List the tour's workflows, two at a time. */
  private async pages(): Promise<void> {
    const sizes: number[] = [];
    let pageToken = "";
    do {
      const page = await this.connection.listWorkflows(
        ListWorkflowsRequest.create({ pageSize: 2, pageToken, labels: { run: this.name } }),
      );
      // A page can be empty and not be the last. Only the token says so.
      if (page.workflows.length > 0) {
        sizes.push(page.workflows.length);
      }
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    console.log(`pages: ${sizes.join(" + ")}`);
  }

  /** Wait until there is something to undo: the items are reserved and the order waits for its approval. */
  private async awaitSignal(name: string): Promise<void> {
    for (let look = 0; look < 600; look++) {
      const { workflow } = await this.connection.getWorkflow(this.get(name));
      if (workflow?.reason === StateReason.SIGNAL) {
        return;
      }
      await sleep(50);
    }
    throw new Error(`${name} does not wait for its signal after 30 s`);
  }

  private async *events(name: string): AsyncGenerator<Event> {
    let pageToken = "";
    do {
      const request = ListEventsRequest.create({ workflowId: this.id(name), pageToken });
      const page = await this.connection.listEvents(request);
      yield* page.events;
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  private id(name: string): string {
    return `${this.name}-${name}`;
  }

  /** Return a text without the tour's name. */
  private cut(text: string): string {
    return text.replaceAll(`${this.name}-`, "");
  }

  private order(name: string, item: Item, packingTime = 0): Payload {
    return asJson({ order_id: this.id(name), items: [item], ledger: `${this.name}.db`, packing_time: packingTime });
  }

  /** Return a request for a start. The caller sets the id, so that a retry does not start a second order. */
  private start(name: string, input: Payload, wait = 0): StartWorkflowRequest {
    return StartWorkflowRequest.create({
      workflowType: "place_order",
      workflowId: this.id(name),
      input,
      labels: { run: this.name },
      wait: seconds(wait),
    });
  }

  private get(name: string, wait = 0): GetWorkflowRequest {
    return GetWorkflowRequest.create({ workflowId: this.id(name), wait: seconds(wait) });
  }
}

/** Return a duration, or undefined for 0. */
function seconds(wait: number) {
  return wait === 0 ? undefined : { seconds: wait, nanos: 0 };
}

/** Return the name of a state. */
function state(workflow: Workflow | undefined): string {
  return workflow?.state.replace("WORKFLOW_STATE_", "") ?? "no workflow";
}

function started(reply: { started: boolean }): string {
  return reply.started ? "started" : "not started";
}
