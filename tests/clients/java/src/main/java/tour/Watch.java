package tour;

import dev.mendflow.v1.Event;
import dev.mendflow.v1.WatchWorkflowRequest;
import dev.mendflow.v1.WatchWorkflowResponse;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.Locale;
import java.util.function.Consumer;

/** A workflow's events from the first to the last, each once, whatever becomes of the server in between. */
final class Watch {
    /** How long to leave a server alone that was not there, in milliseconds. */
    private static final long PAUSE = 200;

    private final Connection connection;

    Watch(Connection connection) {
        this.connection = connection;
    }

    /** Hand on each event, and return after the final one. */
    void run(String workflowId, Consumer<Event> onEvent) throws InterruptedException {
        // The cursor is all that a watch must remember. A program that itself may die keeps it on disk.
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
                    // Of the frame, not of its last event: a frame without events is a sign of life and has a cursor
                    // too, and with a filter the cursor passes the events that were left out.
                    after = frame.getLastSequence();
                }
            } catch (StatusRuntimeException error) {
                if (!passes(error)) {
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
     * Whether asking again helps: the server died, drains or is not up yet. It may also be that the connection closed
     * just when the call was sent; gRPC for Java calls that UNKNOWN, or INTERNAL, without the details that the server
     * gives. Anything else (NOT_FOUND, say) will not pass by waiting.
     */
    private static boolean passes(StatusRuntimeException error) {
        return switch (error.getStatus().getCode()) {
            // CANCELLED is not by this program: it is gRPC's own, from a server that stops.
            case UNAVAILABLE, CANCELLED -> true;
            case UNKNOWN, INTERNAL -> StatusProto.fromThrowable(error).getDetailsCount() == 0;
            default -> false;
        };
    }

    /** Print an event as the modes watch and tour show it. */
    static void print(Event event) {
        System.out.println("watch: " + event.getSequence() + " " + kind(event));
    }

    /** The name of what happened. A newer server may have kinds that this program does not know: they are no error. */
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
