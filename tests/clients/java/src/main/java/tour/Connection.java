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

/** One channel to the server. It is made once: it connects again by itself, and any number of threads may use it. */
final class Connection implements AutoCloseable {
    /** How long a call may take over and above what it asks the server to wait. */
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    /**
     * What is safe to ask twice: what only reads, a start under an id, a signal under a request_id, and a
     * cancellation. Not WatchWorkflow: a watch that broke goes on from its cursor, see {@link Watch}.
     */
    private static final List<String> ASKED_AGAIN =
            List.of("StartWorkflow", "GetWorkflow", "ListWorkflows", "ListEvents", "SignalWorkflow", "CancelWorkflow");

    private final ManagedChannel channel;

    Connection(String address) {
        channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
                .defaultServiceConfig(serviceConfig())
                // A peer that vanished without a word is noticed while a call is open.
                .keepAliveTime(30, TimeUnit.SECONDS)
                .build();
    }

    /** UNAVAILABLE is a server that starts, drains or cannot commit: gRPC asks again, and the caller sees nothing. */
    private static Map<String, ?> serviceConfig() {
        Stream<Map<String, String>> names = ASKED_AGAIN.stream()
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

    /** The stub for calls that are answered at once. A deadline counts from here on, so each call takes a new stub. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub workflows() {
        return workflows(Duration.ZERO);
    }

    /** The stub for a call that asks the server to wait so long. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub workflows(Duration wait) {
        return streams().withDeadlineAfter(wait.plus(PATIENCE));
    }

    /** The stub without a deadline: a watch lasts as long as its workflow. */
    WorkflowServiceGrpc.WorkflowServiceBlockingStub streams() {
        return WorkflowServiceGrpc.newBlockingStub(channel);
    }

    HealthGrpc.HealthBlockingStub health() {
        return HealthGrpc.newBlockingStub(channel).withDeadlineAfter(PATIENCE);
    }

    /**
     * Connect again now. Left alone, the channel waits longer after each failure, up to two minutes, and Java has no
     * setting for it; whoever paces their own attempts says so with this.
     */
    void connectNow() {
        channel.resetConnectBackoff();
    }

    @Override
    public void close() {
        channel.shutdownNow();
    }
}
