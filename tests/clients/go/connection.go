package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	mendflow "tour/gen/mendflow/v1"
)

// patience is how long a call may take over and above what it asks the server to wait.
const patience = 10 * time.Second

// UNAVAILABLE is a server that starts, drains or cannot commit: gRPC asks again, and the caller sees nothing of it.
//
// Named is what is safe to ask twice: what only reads, a start under an id, a signal under a request_id, and a
// cancellation. Not WatchWorkflow: a watch that broke goes on from its cursor, see Watch.
const serviceConfig = `{"methodConfig": [{
	"name": [
		{"service": "mendflow.v1.WorkflowService", "method": "StartWorkflow"},
		{"service": "mendflow.v1.WorkflowService", "method": "GetWorkflow"},
		{"service": "mendflow.v1.WorkflowService", "method": "ListWorkflows"},
		{"service": "mendflow.v1.WorkflowService", "method": "ListEvents"},
		{"service": "mendflow.v1.WorkflowService", "method": "SignalWorkflow"},
		{"service": "mendflow.v1.WorkflowService", "method": "CancelWorkflow"}
	],
	"retryPolicy": {
		"maxAttempts": 4,
		"initialBackoff": "0.1s",
		"maxBackoff": "1s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Connection is one channel to the server. It is made once: it connects again by itself, and any number of goroutines
// may use it.
type Connection struct {
	Workflows mendflow.WorkflowServiceClient
	Health    health.HealthClient
	channel   *grpc.ClientConn
}

// Connect answers a connection; it connects with the first call.
func Connect(address string) (*Connection, error) {
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 100 * time.Millisecond
	// A server that is back is found soon; left alone, the channel would wait up to two minutes.
	reconnect.MaxDelay = time.Second
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		// A peer that vanished without a word is noticed while a call is open.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
	)
	if err != nil {
		return nil, err
	}
	return &Connection{mendflow.NewWorkflowServiceClient(channel), health.NewHealthClient(channel), channel}, nil
}

// Close closes the channel.
func (c *Connection) Close() { _ = c.channel.Close() }

// within answers the context of a call that asks the server to wait so long. A deadline belongs on every call.
func within(wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), wait+patience)
}
