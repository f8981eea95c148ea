package tour;

import dev.mendflow.v1.Event;
import dev.mendflow.v1.WatchWorkflowRequest;
import dev.mendflow.v1.WatchWorkflowResponse;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.Locale;
import java.util.function.Consumer;

/** A watch that yields each event of a workflow once, also across restarts of the server. */
final class Watch {
    /** The pause before a reconnect, in milliseconds. */
    private static final long PAUSE = 200;

    private final Connection connection;

    Watch(Connection connection) {
        this.connection = connection;
    }

    /** Pass each event to onEvent, and return after the final event. */
    void run(String workflowId, Consumer<Event> onEvent) throws InterruptedException {
        // The cursor is the only state of a watch. A program that can crash stores it in a file.
        long after = 0;
        boolean ended = false;
        while (!ended) {
            WatchWorkflowRequest request = WatchWorkflowRequest.newBuilder()
                    .setWorkflowId(workflowId)
                    .setAfterSequence(after)
                    .build();
            try {
                Iterator<WatchWorkflowResponse> frames = connection.streams().watchWorkflow(request);
                while (frames.hasNext()) {
                    WatchWorkflowResponse frame = frames.next();
                    for (Event event : frame.getEventsList()) {
                        onEvent.accept(event);
                        ended = ended || isFinal(event);
                    }
                    // Use the frame's cursor, not its last event: a heartbeat has a cursor but no events, and with a
                    // filter the cursor also passes the excluded events.
                    after = frame.getLastSequence();
                }
            } catch (StatusRuntimeException error) {
                if (!isRetryable(error)) {
                    throw error;
                }
            }
            if (!ended) {
                Thread.sleep(PAUSE);
                connection.connectNow();
            }
        }
    }

    /**
     * Return whether a retry can succeed, because the server crashed, is shutting down or has not started. If the
     * connection closes while the call is sent, gRPC for Java reports UNKNOWN or INTERNAL without the server's details.
     * A retry does not help for other codes such as NOT_FOUND.
     */
    private static boolean isRetryable(StatusRuntimeException error) {
        return switch (error.getStatus().getCode()) {
            // This program does not cancel calls, so CANCELLED comes from gRPC when the server stops.
            case UNAVAILABLE, CANCELLED -> true;
            case UNKNOWN, INTERNAL -> StatusProto.fromThrowable(error).getDetailsCount() == 0;
            default -> false;
        };
    }

    /** Print an event. */
    static void print(Event event) {
        System.out.println("watch: " + event.getSequence() + " " + kind(event));
    }

    /** Return the kind of an event. A kind from a newer server is not an error. */
    private static String kind(Event event) {
        return event.getDetailCase().name().toLowerCase(Locale.ROOT);
    }

    private static boolean isFinal(Event event) {
        return switch (event.getDetailCase()) {
            case WORKFLOW_SUCCEEDED, WORKFLOW_FAILED, WORKFLOW_CANCELLED, WORKFLOW_TERMINATED -> true;
            default -> false;
        };
    }
}
