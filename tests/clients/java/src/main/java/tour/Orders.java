package tour;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.protobuf.Any;
import dev.mendflow.v1.Payload;
import dev.mendflow.v1.StartWorkflowRequest;
import examples.order.v1.PlaceOrderInput;
import java.time.Duration;
import java.util.List;

/** The input and output of place_order as JSON, here from records, and as generated messages. */
final class Orders {
    /** The workflows' JSON uses snake case. */
    static final Gson JSON = new GsonBuilder()
            .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
            .create();

    record Item(String sku, long priceCents, double weightKg, long quantity) {}

    /** The server has defaults for the other members. */
    record Order(String orderId, List<Item> items, String ledger, double packingTime) {}

    record Receipt(String orderId, long chargedCents, List<String> parcels) {}

    private Orders() {}

    static Payload json(Object value) {
        return Payload.newBuilder().setJson(JSON.toJson(value)).build();
    }

    /** The same order as a message. The Any has the message's type. */
    static Payload message(Order order) {
        PlaceOrderInput.Builder input = PlaceOrderInput.newBuilder()
                .setOrderId(order.orderId())
                .setLedger(order.ledger())
                .setPackingTime(order.packingTime());
        for (Item item : order.items()) {
            input.addItemsBuilder()
                    .setSku(item.sku())
                    .setPriceCents(item.priceCents())
                    .setWeightKg(item.weightKg())
                    .setQuantity(item.quantity());
        }
        return Payload.newBuilder().setMessage(Any.pack(input.build())).build();
    }

    /**
     * A start of place_order. The caller sets the id, here the order's number, so that a retry after a lost reply does
     * not start a second workflow.
     */
    static StartWorkflowRequest.Builder start(String id, Payload input) {
        return StartWorkflowRequest.newBuilder()
                .setWorkflowType("place_order")
                .setWorkflowId(id)
                .setInput(input);
    }

    static com.google.protobuf.Duration duration(Duration duration) {
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(duration.getSeconds())
                .setNanos(duration.getNano())
                .build();
    }
}
