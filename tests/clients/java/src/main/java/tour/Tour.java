package tour;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.ResourceInfo;
import dev.mendflow.v1.CancelWorkflowRequest;
import dev.mendflow.v1.Event;
import dev.mendflow.v1.Failure;
import dev.mendflow.v1.GetWorkflowRequest;
import dev.mendflow.v1.ListEventsRequest;
import dev.mendflow.v1.ListEventsResponse;
import dev.mendflow.v1.ListWorkflowsRequest;
import dev.mendflow.v1.ListWorkflowsResponse;
import dev.mendflow.v1.Payload;
import dev.mendflow.v1.ProgressReported;
import dev.mendflow.v1.SignalWorkflowRequest;
import dev.mendflow.v1.StartWorkflowRequest;
import dev.mendflow.v1.StartWorkflowResponse;
import dev.mendflow.v1.StateReason;
import dev.mendflow.v1.Workflow;
import dev.mendflow.v1.WorkflowState;
import examples.order.v1.PlaceOrderOutput;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.stream.Collectors;
import tour.Orders.Item;
import tour.Orders.Order;
import tour.Orders.Receipt;

/** Everything that a caller does with the server, in sequence. */
final class Tour {
    /** How long a call asks the server to wait for a workflow's end. At most 60 s; call again to wait longer. */
    private static final Duration WAIT = Duration.ofSeconds(30);

    private static final Item TWO_LAMPS = new Item("lamp", 4900, 2.5, 2);
    private static final Item LAMP = new Item("lamp", 4900, 2.5, 1);
    private static final Item NO_LAMP = new Item("lamp", 4900, 2.5, 0);
    private static final Item HEAVY_CHAIR = new Item("chair", 12_000, 100, 1);
    private static final Item DESK = new Item("desk", 150_000, 40, 1);

    private final Connection connection;
    private final String prefix;
    private final String name;

    Tour(Connection connection, String name) {
        this.connection = connection;
        this.name = name;
        this.prefix = name + "-";
    }

    void run() throws Exception {
        health();
        startAndWait();
        typed();
        trace();
        refusals();
        failure();
        deadline();
        signal();
        watch();
        cancel();
        pages();
    }

    private void health() {
        HealthCheckRequest all = HealthCheckRequest.getDefaultInstance();
        print("health: " + connection.health().check(all).getStatus());
        HealthCheckRequest nothing = HealthCheckRequest.newBuilder().setService("nothing").build();
        print("health of nothing: " + Refusal.of(() -> connection.health().check(nothing)).code());
        // Closing the context cancels the calls inside it. A stream that is not cancelled never ends.
        try (Context.CancellableContext call = Context.current().withCancellation()) {
            call.run(() -> print("health watch: " + first(all).getStatus()));
        }
    }

    private HealthCheckResponse first(HealthCheckRequest request) {
        return connection.health().watch(request).next();
    }

    private void startAndWait() {
        StartWorkflowRequest request = order("now", TWO_LAMPS).setWait(Orders.duration(WAIT)).build();
        StartWorkflowResponse reply = connection.workflows(WAIT).startWorkflow(request);
        Workflow workflow = reply.getWorkflow();
        Receipt receipt = Orders.JSON.fromJson(workflow.getOutput().getJson(), Receipt.class);
        print("start and wait: " + state(workflow) + ", " + started(reply) + ", "
                + paid(receipt.chargedCents(), receipt.parcels().size()));

        // A retry after a lost reply is safe: it returns the existing workflow.
        StartWorkflowResponse again = connection.workflows(WAIT).startWorkflow(request);
        boolean same = again.getWorkflow().getUid().equals(workflow.getUid());
        print("start again: " + state(again.getWorkflow()) + ", " + started(again) + ", "
                + (same ? "same execution" : "another execution"));
    }

    private void typed() throws InvalidProtocolBufferException {
        Order order = new Order(prefix + "typed", List.of(LAMP), name + ".db", 0);
        StartWorkflowRequest request = start("typed", Orders.message(order)).setWait(Orders.duration(WAIT)).build();
        Workflow workflow = connection.workflows(WAIT).startWorkflow(request).getWorkflow();
        // If the input is a message, the output is a message too.
        PlaceOrderOutput output = workflow.getOutput().getMessage().unpack(PlaceOrderOutput.class);
        print("typed: " + state(workflow) + ", " + paid(output.getChargedCents(), output.getParcelsCount()));
    }

    private void trace() {
        // OpenTelemetry's instrumentation of the channel sets this header automatically.
        String traceId = hex(16);
        Metadata headers = new Metadata();
        headers.put(
                Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER),
                "00-" + traceId + "-" + hex(8) + "-01");
        Workflow workflow = connection.workflows()
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
                .startWorkflow(order("traced", LAMP).build())
                .getWorkflow();
        print("trace: " + (workflow.getTraceId().equals(traceId) ? "continued" : "lost"));
    }

    /** Programs decide by the code and by ErrorInfo's reason; the message is for people and may change. */
    private void refusals() throws InvalidProtocolBufferException {
        Refusal other = Refusal.of(() -> connection.workflows().startWorkflow(order("now", LAMP).build()));
        ErrorInfo info = other.detail(ErrorInfo.class);
        print("other input: " + other.code() + ", " + info.getReason() + " of " + info.getDomain() + ", differs: "
                + info.getMetadataOrDefault("differs", ""));

        Refusal bad = Refusal.of(() -> connection.workflows().startWorkflow(order("bad", NO_LAMP).build()));
        String fields = bad.detail(BadRequest.class).getFieldViolationsList().stream()
                .map(BadRequest.FieldViolation::getField)
                .collect(Collectors.joining("; "));
        print("bad input: " + bad.code() + ", " + bad.detail(ErrorInfo.class).getReason() + ", " + fields);

        Refusal none = Refusal.of(() -> connection.workflows().getWorkflow(get("nothing").build()));
        String resource = none.detail(ResourceInfo.class).getResourceName();
        print("no workflow: " + none.code() + ", " + none.detail(ErrorInfo.class).getReason() + ", " + cut(resource));
    }

    /** Read the failure of a workflow. The call itself succeeds. */
    private void failure() {
        StartWorkflowRequest request = order("heavy", HEAVY_CHAIR).setWait(Orders.duration(WAIT)).build();
        Workflow workflow = connection.workflows(WAIT).startWorkflow(request).getWorkflow();
        Failure failure = workflow.getFailure();
        String kind = failure.getKind().name().substring("FAILURE_KIND_".length());
        print(cut("failure: " + state(workflow) + ", " + kind + ", " + failure.getType() + ": " + failure.getMessage()
                + ", step " + failure.getStepKey()));
    }

    private void deadline() {
        // An order this expensive waits for the signal approve.
        connection.workflows().startWorkflow(order("big", 3, DESK).build());
        GetWorkflowRequest request = get("big").setWait(Orders.duration(Duration.ofMinutes(1))).build();
        // The deadline ends only the call, not the workflow.
        Refusal refusal = Refusal.of(
                () -> connection.streams().withDeadlineAfter(Duration.ofMillis(300)).getWorkflow(request));
        print("deadline: " + refusal.code());
    }

    private void signal() {
        // Without the request_id, a retry after a lost reply would send a second signal.
        SignalWorkflowRequest request = SignalWorkflowRequest.newBuilder()
                .setWorkflowId(prefix + "big")
                .setName("approve")
                .setData(Orders.json(Map.of("by", "clients")))
                .setRequestId(prefix + "approval")
                .build();
        boolean first = connection.workflows().signalWorkflow(request).getDuplicate();
        boolean second = connection.workflows().signalWorkflow(request).getDuplicate();
        print("signal: " + news(first) + ", then " + news(second));
    }

    private void watch() throws InterruptedException {
        List<ProgressReported> reports = new ArrayList<>();
        new Watch(connection).run(prefix + "big", event -> {
            Watch.print(event);
            if (event.hasProgressReported()) {
                reports.add(event.getProgressReported());
            }
        });
        for (ProgressReported report : reports) {
            print("progress: " + report.getDone() + " of " + report.getTotal() + ": " + report.getMessage());
        }
    }

    private void cancel() throws InterruptedException {
        connection.workflows().startWorkflow(order("unwanted", DESK).build());
        awaitSignal("unwanted");
        connection.workflows().cancelWorkflow(CancelWorkflowRequest.newBuilder()
                .setWorkflowId(prefix + "unwanted")
                .setReason("not wanted any more")
                .build());
        // The reply means that the request is committed. The clean-up takes longer.
        GetWorkflowRequest request = get("unwanted").setWait(Orders.duration(WAIT)).build();
        Workflow workflow = connection.workflows(WAIT).getWorkflow(request).getWorkflow();
        boolean undone = events("unwanted").stream()
                .anyMatch(event -> event.getAttemptSucceeded().getStepKey().startsWith("release"));
        print("cancel: " + state(workflow) + ", " + (undone ? "undone" : "not undone"));
    }

    /** Wait until there is something to undo: the items are reserved and the order waits for its approval. */
    private void awaitSignal(String id) throws InterruptedException {
        GetWorkflowRequest request = get(id).build();
        for (int tries = 0; tries < 600; tries++) {
            Workflow workflow = connection.workflows().getWorkflow(request).getWorkflow();
            if (workflow.getState() == WorkflowState.WORKFLOW_STATE_WAITING
                    && workflow.getReason() == StateReason.STATE_REASON_SIGNAL) {
                return;
            }
            Thread.sleep(50);
        }
        throw new IllegalStateException(id + " does not wait for its signal after 30 s");
    }

    private List<Event> events(String id) {
        List<Event> events = new ArrayList<>();
        ListEventsRequest.Builder request = ListEventsRequest.newBuilder().setWorkflowId(prefix + id);
        ListEventsResponse page;
        do {
            page = connection.workflows().listEvents(request.build());
            events.addAll(page.getEventsList());
            request.setPageToken(page.getNextPageToken());
        } while (!page.getNextPageToken().isEmpty());
        return events;
    }

    private void pages() {
        List<String> sizes = new ArrayList<>();
        ListWorkflowsRequest.Builder request =
                ListWorkflowsRequest.newBuilder().setPageSize(2).putLabels("run", name);
        ListWorkflowsResponse page;
        do {
            page = connection.workflows().listWorkflows(request.build());
            // A page can be empty and not be the last. Only the token says so.
            if (page.getWorkflowsCount() > 0) {
                sizes.add(String.valueOf(page.getWorkflowsCount()));
            }
            request.setPageToken(page.getNextPageToken());
        } while (!page.getNextPageToken().isEmpty());
        print("pages: " + String.join(" + ", sizes));
    }

    private StartWorkflowRequest.Builder order(String id, Item item) {
        return order(id, 0, item);
    }

    private StartWorkflowRequest.Builder order(String id, double packingTime, Item item) {
        return start(id, Orders.json(new Order(prefix + id, List.of(item), name + ".db", packingTime)));
    }

    private StartWorkflowRequest.Builder start(String id, Payload input) {
        return Orders.start(prefix + id, input).putLabels("run", name);
    }

    private GetWorkflowRequest.Builder get(String id) {
        return GetWorkflowRequest.newBuilder().setWorkflowId(prefix + id);
    }

    /** Return a text without the tour's name. */
    private String cut(String text) {
        return text.replace(prefix, "");
    }

    private static String state(Workflow workflow) {
        return workflow.getState().name().substring("WORKFLOW_STATE_".length());
    }

    private static String started(StartWorkflowResponse reply) {
        return reply.getStarted() ? "started" : "not started";
    }

    private static String news(boolean duplicate) {
        return duplicate ? "duplicate" : "new";
    }

    private static String paid(long cents, int parcels) {
        return cents + " cents, " + parcels + " parcel(s)";
    }

    /** Return random bytes as hexadecimal digits. */
    private static String hex(int bytes) {
        byte[] random = new byte[bytes];
        ThreadLocalRandom.current().nextBytes(random);
        return HexFormat.of().formatHex(random);
    }

    private static void print(String line) {
        // System.out flushes at each line.
        System.out.println(line);
    }
}
