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

// pause is how long to leave a server alone that was not there.
const pause = 200 * time.Millisecond

// Watch hands on a workflow's events from the first to the last, each once, whatever becomes of the server in between.
func Watch(connection *Connection, workflowID string, onEvent func(*mendflow.Event)) error {
	// The cursor is all that a watch must remember. A program that itself may die keeps it on disk.
	var after int64
	ended := false
	for !ended {
		err := watchOnce(connection, workflowID, &after, func(event *mendflow.Event) {
			onEvent(event)
			ended = ended || isFinal(event)
		})
		if err != nil && !passes(err) {
			return err
		}
		if !ended {
			time.Sleep(pause)
		}
	}
	return nil
}

// passes tells whether asking again helps: the server was killed, drains or is out of reach. A cancel that is not by
// this program is gRPC's own, from a server that stops. Everything else is a refusal.
func passes(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Canceled
}

// watchOnce watches until the stream ends or breaks.
func watchOnce(connection *Connection, workflowID string, after *int64, onEvent func(*mendflow.Event)) error {
	// When this returns, the call is over on the server too.
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
		// Of the frame, not of its last event: a frame without events is a sign of life and has a cursor too, and with
		// a filter the cursor passes the events that were left out.
		*after = frame.LastSequence
	}
}

// isFinal tells whether no event follows.
func isFinal(event *mendflow.Event) bool {
	switch event.Detail.(type) {
	case *mendflow.Event_WorkflowSucceeded, *mendflow.Event_WorkflowFailed,
		*mendflow.Event_WorkflowCancelled, *mendflow.Event_WorkflowTerminated:
		return true
	}
	return false
}

// kindOf answers the name of an event's detail, as in the contract.
func kindOf(event *mendflow.Event) string {
	message := event.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("detail"))
	if field == nil {
		return "unknown" // A newer server wrote it.
	}
	return strings.ToLower(string(field.Name()))
}
