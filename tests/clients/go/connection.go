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

// patience is the time that a call has in addition to its requested wait.
const patience = 10 * time.Second

// serviceConfig makes gRPC retry UNAVAILABLE, which a server returns that is starting, shutting down or cannot commit.
//
// It lists the calls that are safe to retry: reads, a start with an id, a signal with a request_id, and a cancel.
// WatchWorkflow is not listed, because a broken watch must resume at its cursor, see Watch.
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

// Connection is one channel to the server. It reconnects automatically, and any number of goroutines can share it.
type Connection struct {
	Workflows mendflow.WorkflowServiceClient
	Health    health.HealthClient
	channel   *grpc.ClientConn
}

// Connect returns a connection, which connects with the first call.
func Connect(address string) (*Connection, error) {
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 100 * time.Millisecond
	// Reconnect soon after a restart of the server. The default wait is up to two minutes.
	reconnect.MaxDelay = time.Second
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		// Pings detect a peer that disappeared during a call.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
	)
	if err != nil {
		return nil, err
	}
	return &Connection{mendflow.NewWorkflowServiceClient(channel), health.NewHealthClient(channel), channel}, nil
}

// Close closes the channel.
func (c *Connection) Close() { _ = c.channel.Close() }

// within returns the context of a call that asks the server to wait. Every call needs a deadline.
func within(wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), wait+patience)
}
