package tour;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;

/** An error status with its details: messages of google.rpc for programs, and text for people. */
record Refusal(Status.Code code, List<Any> details) {

    /** Make a call that the server must refuse, and return the error. */
    static Refusal of(Runnable call) {
        try {
            call.run();
        } catch (StatusRuntimeException error) {
            com.google.rpc.Status status = StatusProto.fromThrowable(error);
            return new Refusal(error.getStatus().getCode(), status == null ? List.of() : status.getDetailsList());
        }
        return new Refusal(Status.Code.OK, List.of());
    }

    /** Return the detail of this type. */
    <T extends Message> T detail(Class<T> type) throws InvalidProtocolBufferException {
        for (Any detail : details) {
            if (detail.is(type)) {
                return detail.unpack(type);
            }
        }
        throw new IllegalStateException(code + " without " + type.getSimpleName());
    }
}
