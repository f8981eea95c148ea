package main

import (
	"fmt"
	"sync"
	"sync/atomic"

	mendflow "tour/gen/mendflow/v1"
)

// inFlight is the number of concurrent starts. The server commits starts together that arrive together.
const inFlight = 32

// startMany starts count empty orders.
func startMany(connection *Connection, name string, count int) error {
	numbers := make(chan int)
	var started atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	for range inFlight {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for number := range numbers {
				isNew, err := startOne(connection, name, number)
				if err != nil {
					failed.Store(&err)
				} else if isNew {
					started.Add(1)
				}
			}
		}()
	}
	for number := 1; number <= count; number++ {
		numbers <- number
	}
	close(numbers)
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	fmt.Printf("starts: %d requested, %d started\n", count, started.Load())
	return nil
}

func startOne(connection *Connection, name string, number int) (bool, error) {
	ctx, cancel := within(0)
	defer cancel()
	id := fmt.Sprintf("%s-%04d", name, number)
	reply, err := connection.Workflows.StartWorkflow(ctx, &mendflow.StartWorkflowRequest{
		WorkflowType: "place_order",
		WorkflowId:   id,
		Input:        asJSON(Order{OrderID: id, Items: []Item{}, Ledger: name + ".db"}),
	})
	return reply.GetStarted(), err
}
