package tour;

import dev.mendflow.v1.StartWorkflowRequest;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Many concurrent starts. The server commits starts together that arrive together. */
final class Starts {
    private static final int IN_FLIGHT = 32;

    private final Connection connection;
    private final String name;

    Starts(Connection connection, String name) {
        this.connection = connection;
        this.name = name;
    }

    void run(int count) throws Exception {
        List<Callable<Boolean>> calls = new ArrayList<>();
        for (int number = 1; number <= count; number++) {
            StartWorkflowRequest request = request(String.format(Locale.ROOT, "%s-%04d", name, number));
            calls.add(() -> connection.workflows().startWorkflow(request).getStarted());
        }
        ExecutorService threads = Executors.newFixedThreadPool(IN_FLIGHT);
        int started = 0;
        try {
            for (Future<Boolean> reply : threads.invokeAll(calls)) {
                started += reply.get() ? 1 : 0;
            }
        } finally {
            threads.shutdown();
        }
        System.out.println("starts: " + count + " requested, " + started + " started");
    }

    private StartWorkflowRequest request(String id) {
        return Orders.start(id, Orders.json(new Orders.Order(id, List.of(), name + ".db", 0))).build();
    }
}
