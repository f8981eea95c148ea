package tour;

import java.util.Set;

/** The command line. Each mode is a class. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        String mode = arguments.length == 0 ? "" : arguments[0];
        if (!Set.of("tour 3", "watch 3", "starts 4").contains(mode + " " + arguments.length)) {
            System.err.println("usage: run tour ADDRESS NAME | watch ADDRESS WORKFLOW_ID | starts ADDRESS NAME COUNT");
            System.exit(2);
        }
        try (Connection connection = new Connection(arguments[1])) {
            switch (mode) {
                case "tour" -> new Tour(connection, arguments[2]).run();
                case "watch" -> new Watch(connection).run(arguments[2], Watch::print);
                default -> new Starts(connection, arguments[2]).run(Integer.parseInt(arguments[3]));
            }
        }
    }
}
