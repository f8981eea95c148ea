package tour;

/** The command line: each mode is a class of its own. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        String mode = arguments.length == 0 ? "" : arguments[0];
        switch (mode + " " + arguments.length) {
            case "tour 3" -> {
                try (Connection connection = new Connection(arguments[1])) {
                    new Tour(connection, arguments[2]).run();
                }
            }
            case "watch 3" -> {
                try (Connection connection = new Connection(arguments[1])) {
                    new Watch(connection).run(arguments[2], Watch::print);
                }
            }
            case "starts 4" -> {
                try (Connection connection = new Connection(arguments[1])) {
                    new Starts(connection, arguments[2]).run(Integer.parseInt(arguments[3]));
                }
            }
            default -> {
                System.err.println("usage: run tour ADDRESS NAME | watch ADDRESS ID | starts ADDRESS NAME COUNT");
                System.exit(2);
            }
        }
    }
}
