package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	mendflow "tour/gen/mendflow/v1"
)

// pause is the time before a reconnect.
const pause = 200 * time.Millisecond

// Watch passes each event of a workflow to onEvent once, also across restarts of the server.
func Watch(connection *Connection, workflowID string, onEvent func(*mendflow.Event)) error {
	// The cursor is the only state of a watch. A program that can crash stores it in a file.
	var after int64
	ended := false
	for !ended {
		err := watchOnce(connection, workflowID, &after, func(event *mendflow.Event) {
			onEvent(event)
			ended = ended || isFinal(event)
		})
		if err != nil && !isRetryable(err) {
			return err
		}
		if !ended {
			time.Sleep(pause)
		}
	}
	return nil
}

// isRetryable returns whether a retry can succeed, because the server crashed, is shutting down or is unreachable. This
// program does not cancel calls, so Canceled comes from gRPC when the server stops. Every other code is a refusal.
func isRetryable(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Canceled
}

// watchOnce reads one stream until it ends or breaks.
func watchOnce(connection *Connection, workflowID string, after *int64, onEvent func(*mendflow.Event)) error {
	// Cancel the call on the server when this returns.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request := &mendflow.WatchWorkflowRequest{WorkflowId: workflowID, AfterSequence: *after}
	stream, err := connection.Workflows.WatchWorkflow(ctx, request)
	if err != nil {
		return err
	}
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range frame.Events {
			onEvent(event)
		}
		// Use the frame's cursor, not its last event: a heartbeat has a cursor but no events, and with
		// a filter the cursor also passes the excluded events.
		*after = frame.LastSequence
	}
}

// isFinal returns whether the event is the last one.
func isFinal(event *mendflow.Event) bool {
	switch event.Detail.(type) {
	case *mendflow.Event_WorkflowSucceeded, *mendflow.Event_WorkflowFailed,
		*mendflow.Event_WorkflowCancelled, *mendflow.Event_WorkflowTerminated:
		return true
	}
	return false
}

// kindOf returns the name of an event's detail, as in the proto.
func kindOf(event *mendflow.Event) string {
	message := event.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("detail"))
	if field == nil {
		return "unknown" // A newer server wrote it.
	}
	return strings.ToLower(string(field.Name()))
}
