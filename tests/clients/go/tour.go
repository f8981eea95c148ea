package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	order "tour/gen/examples/order/v1"
	mendflow "tour/gen/mendflow/v1"
)

// wait is how long a call asks the server to wait for a workflow's end. At most 60 s; call again to wait longer.
const wait = 30 * time.Second

var (
	lamp       = Item{"lamp", 4900, 2.5, 1}
	heavyChair = Item{"chair", 12_000, 100, 1}
	// So expensive that the order waits for the signal approve.
	desk = Item{"desk", 150_000, 40, 1}
)

// Tour does everything that a caller does with the server, in sequence. Its workflow ids start with its name.
type Tour struct {
	*Connection
	name string
}

// NewTour returns the tour with this name.
func NewTour(connection *Connection, name string) *Tour { return &Tour{connection, name} }

// Run runs the tour.
func (t *Tour) Run() error {
	for _, part := range []func() error{
		t.health, t.startAndWait, t.typed, t.trace, t.refusals, t.failure, t.deadline, t.signal, t.watch, t.cancel, t.pages,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// health checks whether the server is ready, like a load balancer.
func (t *Tour) health() error {
	ctx, cancel := within(0)
	defer cancel()
	reply, err := t.Health.Check(ctx, &health.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Println("health:", reply.Status)
	_, err = t.Health.Check(ctx, &health.HealthCheckRequest{Service: "nothing"})
	fmt.Println("health of nothing:", refusalOf(err).Code)
	// Watch streams each change until the call is cancelled.
	changes, err := t.Health.Watch(ctx, &health.HealthCheckRequest{})
	if err != nil {
		return err
	}
	first, err := changes.Recv()
	fmt.Println("health watch:", first.GetStatus())
	return err
}

// startAndWait starts a workflow and gets its result in one call.
func (t *Tour) startAndWait() error {
	two := lamp
	two.Quantity = 2
	request := t.request("now", asJSON(t.order("now", two)), wait)
	reply, err := t.start(request, wait)
	if err != nil {
		return err
	}
	var receipt Receipt
	if err := json.Unmarshal([]byte(reply.Workflow.Output.GetJson()), &receipt); err != nil {
		return err
	}
	fmt.Printf("start and wait: %s, %s, %d cents, %d parcel(s)\n",
		state(reply.Workflow), started(reply), receipt.ChargedCents, len(receipt.Parcels))
	// A retry after a lost reply is safe: it returns the existing workflow.
	again, err := t.start(request, wait)
	if err != nil {
		return err
	}
	same := "another execution"
	if again.Workflow.Uid == reply.Workflow.Uid {
		same = "same execution"
	}
	fmt.Printf("start again: %s, %s, %s\n", state(again.Workflow), started(again), same)
	return nil
}

// typed starts a workflow with a message. The compiler finds a wrong field name.
func (t *Tour) typed() error {
	reply, err := t.start(t.request("typed", asMessage(t.order("typed", lamp)), wait), wait)
	if err != nil {
		return err
	}
	// If the input is a message, the output is a message too.
	output := new(order.PlaceOrderOutput)
	if err := reply.Workflow.Output.GetMessage().UnmarshalTo(output); err != nil {
		return err
	}
	fmt.Printf("typed: %s, %d cents, %d parcel(s)\n", state(reply.Workflow), output.GetChargedCents(), len(output.Parcels))
	return nil
}

// trace makes the workflow's spans children of the caller's span.
func (t *Tour) trace() error {
	// OpenTelemetry's instrumentation of the channel sets this header automatically.
	traceID := random(16)
	ctx, cancel := within(0)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+traceID+"-"+random(8)+"-01")
	reply, err := t.Workflows.StartWorkflow(ctx, t.request("traced", asJSON(t.order("traced", lamp)), 0))
	if err != nil {
		return err
	}
	if reply.Workflow.TraceId == traceID {
		fmt.Println("trace: continued")
	} else {
		fmt.Println("trace: lost")
	}
	return nil
}

// refusals reads errors. Programs use the code and the reason in ErrorInfo; the message is for people.
func (t *Tour) refusals() error {
	_, err := t.start(t.request("now", asJSON(t.order("now", lamp)), 0), 0)
	other := refusalOf(err)
	info, err := detail[*errdetails.ErrorInfo](other)
	if err != nil {
		return err
	}
	fmt.Printf("other input: %s, %s of %s, differs: %s\n", other.Code, info.Reason, info.Domain, info.Metadata["differs"])

	none := lamp
	none.Quantity = 0
	_, err = t.start(t.request("bad", asJSON(t.order("bad", none)), 0), 0)
	bad := refusalOf(err)
	if info, err = detail[*errdetails.ErrorInfo](bad); err != nil {
		return err
	}
	places, err := detail[*errdetails.BadRequest](bad)
	if err != nil {
		return err
	}
	var fields []string
	for _, violation := range places.FieldViolations {
		fields = append(fields, violation.Field)
	}
	fmt.Printf("bad input: %s, %s, %s\n", bad.Code, info.Reason, strings.Join(fields, "; "))

	_, err = t.get("nothing", 0, patience)
	missing := refusalOf(err)
	if info, err = detail[*errdetails.ErrorInfo](missing); err != nil {
		return err
	}
	resource, err := detail[*errdetails.ResourceInfo](missing)
	if err != nil {
		return err
	}
	fmt.Printf("no workflow: %s, %s, %s\n", missing.Code, info.Reason, t.cut(resource.ResourceName))
	return nil
}

// failure reads the failure of a workflow. The call itself succeeds.
func (t *Tour) failure() error {
	reply, err := t.start(t.request("heavy", asJSON(t.order("heavy", heavyChair)), wait), wait)
	if err != nil {
		return err
	}
	failure := reply.Workflow.Failure
	kind := strings.TrimPrefix(failure.Kind.String(), "FAILURE_KIND_")
	what := fmt.Sprintf("%s: %s, step %s", failure.Type, failure.Message, failure.StepKey)
	fmt.Printf("failure: %s, %s, %s\n", state(reply.Workflow), kind, t.cut(what))
	return nil
}

// deadline stops waiting. It ends only the call, not the workflow.
func (t *Tour) deadline() error {
	big := t.order("big", desk)
	big.PackingTime = 3
	if _, err := t.start(t.request("big", asJSON(big), 0), 0); err != nil {
		return err
	}
	_, err := t.get("big", time.Minute, 300*time.Millisecond)
	fmt.Println("deadline:", refusalOf(err).Code)
	return nil
}

// signal sends a workflow the signal that it waits for.
func (t *Tour) signal() error {
	// Without the request id, a retry after a lost reply would send a second signal.
	request := &mendflow.SignalWorkflowRequest{
		WorkflowId: t.id("big"),
		Name:       "approve",
		Data:       asJSON(map[string]string{"by": "clients"}),
		RequestId:  t.id("approval"),
	}
	var answers []string
	for range 2 {
		ctx, cancel := within(0)
		reply, err := t.Workflows.SignalWorkflow(ctx, request)
		cancel()
		if err != nil {
			return err
		}
		if reply.Duplicate {
			answers = append(answers, "duplicate")
		} else {
			answers = append(answers, "new")
		}
	}
	fmt.Println("signal:", strings.Join(answers, ", then "))
	return nil
}

// watch watches the workflow until it ends, also across restarts of the server.
func (t *Tour) watch() error {
	var reports []*mendflow.ProgressReported
	err := Watch(t.Connection, t.id("big"), func(event *mendflow.Event) {
		printEvent(event)
		if report := event.GetProgressReported(); report != nil {
			reports = append(reports, report)
		}
	})
	for _, report := range reports {
		fmt.Printf("progress: %d of %d: %s\n", report.Done, report.Total, report.Message)
	}
	return err
}

// cancel cancels a workflow, which then undoes its completed steps.
func (t *Tour) cancel() error {
	if _, err := t.start(t.request("unwanted", asJSON(t.order("unwanted", desk)), 0), 0); err != nil {
		return err
	}
	if err := t.awaitSignal("unwanted"); err != nil {
		return err
	}
	ctx, cancel := within(0)
	defer cancel()
	request := &mendflow.CancelWorkflowRequest{WorkflowId: t.id("unwanted"), Reason: "not wanted any more"}
	if _, err := t.Workflows.CancelWorkflow(ctx, request); err != nil {
		return err
	}
	// The reply means that the request is committed. The clean-up takes longer.
	workflow, err := t.get("unwanted", wait, wait+patience)
	if err != nil {
		return err
	}
	events, err := t.events("unwanted")
	undone := "not undone"
	for _, event := range events {
		if strings.HasPrefix(event.GetAttemptSucceeded().GetStepKey(), "release") {
			undone = "undone"
		}
	}
	fmt.Printf("cancel: %s, %s\n", state(workflow), undone)
	return err
}

// pages lists the tour's workflows, two at a time.
func (t *Tour) pages() error {
	var sizes []string
	request := &mendflow.ListWorkflowsRequest{PageSize: 2, Labels: map[string]string{"run": t.name}}
	for {
		ctx, cancel := within(0)
		page, err := t.Workflows.ListWorkflows(ctx, request)
		cancel()
		if err != nil {
			return err
		}
		// A page can be empty and not be the last. Only the token says so.
		if len(page.Workflows) > 0 {
			sizes = append(sizes, strconv.Itoa(len(page.Workflows)))
		}
		if page.NextPageToken == "" {
			break
		}
		request.PageToken = page.NextPageToken
	}
	fmt.Println("pages:", strings.Join(sizes, " + "))
	return nil
}

// awaitSignal waits until there is something to undo: the items are reserved and the order waits for its approval.
func (t *Tour) awaitSignal(name string) error {
	for range 600 {
		workflow, err := t.get(name, 0, patience)
		if err != nil || workflow.Reason == mendflow.StateReason_STATE_REASON_SIGNAL {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New(name + " does not wait for its signal after 30 s")
}

func (t *Tour) events(name string) ([]*mendflow.Event, error) {
	var events []*mendflow.Event
	request := &mendflow.ListEventsRequest{WorkflowId: t.id(name)}
	for {
		ctx, cancel := within(0)
		page, err := t.Workflows.ListEvents(ctx, request)
		cancel()
		if err != nil {
			return nil, err
		}
		events = append(events, page.Events...)
		if page.NextPageToken == "" {
			return events, nil
		}
		request.PageToken = page.NextPageToken
	}
}

func (t *Tour) start(
	request *mendflow.StartWorkflowRequest, wait time.Duration,
) (*mendflow.StartWorkflowResponse, error) {
	ctx, cancel := within(wait)
	defer cancel()
	return t.Workflows.StartWorkflow(ctx, request)
}

func (t *Tour) get(name string, wait, deadline time.Duration) (*mendflow.Workflow, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	request := &mendflow.GetWorkflowRequest{WorkflowId: t.id(name)}
	if wait > 0 {
		request.Wait = durationpb.New(wait)
	}
	reply, err := t.Workflows.GetWorkflow(ctx, request)
	return reply.GetWorkflow(), err
}

// request returns a start. The caller sets the id, so that a retry does not start a second order.
func (t *Tour) request(name string, input *mendflow.Payload, wait time.Duration) *mendflow.StartWorkflowRequest {
	request := &mendflow.StartWorkflowRequest{
		WorkflowType: "place_order",
		WorkflowId:   t.id(name),
		Input:        input,
		Labels:       map[string]string{"run": t.name},
	}
	if wait > 0 {
		request.Wait = durationpb.New(wait)
	}
	return request
}

func (t *Tour) order(name string, item Item) Order {
	return Order{OrderID: t.id(name), Items: []Item{item}, Ledger: t.name + ".db"}
}

func (t *Tour) id(name string) string { return t.name + "-" + name }

// cut returns a text without the tour's name.
func (t *Tour) cut(text string) string { return strings.ReplaceAll(text, t.name+"-", "") }

func state(workflow *mendflow.Workflow) string {
	return strings.TrimPrefix(workflow.State.String(), "WORKFLOW_STATE_")
}

func started(reply *mendflow.StartWorkflowResponse) string {
	if reply.Started {
		return "started"
	}
	return "not started"
}

// random returns random bytes as hexadecimal digits.
func random(bytes int) string {
	found := make([]byte, bytes)
	_, _ = rand.Read(found) // It never fails.
	return hex.EncodeToString(found)
}
