package tour;

import dev.mendflow.v1.WorkflowServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** One channel to the server. It reconnects automatically, and any number of threads can share it. */
final class Connection implements AutoCloseable {
    /** The time that a call has in addition to its requested wait. */
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    /**
     * The calls that are safe to retry: reads, a start with an id, a signal with a request_id, and a cancel.
     * WatchWorkflow is not listed, because a broken watch must resume at its cursor, see {@link Watch}.
     */
    private static final List<String> RETRIED =
            List.of("StartWorkflow", "GetWorkflow", "ListWorkflows", "ListEvents", "SignalWorkflow", "CancelWorkflow");

    private final ManagedChannel channel;

    Connection(String address) {
        channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
                .defaultServiceConfig(serviceConfig())
                // Pings detect a peer that disappeared during a call.
                .keepAliveTime(30, TimeUnit.SECONDS)
                .build();
    }

    /** gRPC retries UNAVAILABLE, which a server returns that is starting, shutting down or cannot commit. */
    private static Map<String, ?> serviceConfig() {
        Stream<Map<String, String>> names = RETRIED.stream()
                .map(method -> Map.of("service", WorkflowServiceGrpc.SERVICE_NAME, "method", method));
        // In Java the numbers must be doubles, as in parsed JSON.
        Map<String, ?> retry = Map.of(
                "maxAttempts", 4.0,
                "initialBackoff", "0.1s",
                "maxBackoff", "1s",
                "backoffMultiplier", 2.0,
                "retryableStatusCodes", List.of("UNAVAILABLE"));
        return Map.of("methodConfig", List.of(Map.of("name", names.toList(), "retryPolicy", retry)));
    }

    /** The stub for calls without a wait. The deadline starts here, so each call needs a new stub. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub workflows() {
        return workflows(Duration.ZERO);
    }

    /** The stub for a call that asks the server to wait. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub workflows(Duration wait) {
        return streams().withDeadlineAfter(wait.plus(PATIENCE));
    }

    /** The stub without a deadline, because a watch lasts as long as its workflow. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub streams() {
        return WorkflowServiceGrpc.newBlockingStub(channel);
    }

    HealthGrpc.HealthBlockingStub health() {
        return HealthGrpc.newBlockingStub(channel).withDeadlineAfter(PATIENCE);
    }

    /**
     * Reconnect now. By default the channel waits longer after each failure, up to two minutes, and Java has no
     * setting for it. A caller with its own pauses calls this method before each attempt.
     */
    void connectNow() {
        channel.resetConnectBackoff();
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }
}
