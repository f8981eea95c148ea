// A tour of Mendflow from Go.
//
//	run tour ADDRESS NAME            everything that a caller does; each workflow id starts with NAME-
//	run watch ADDRESS WORKFLOW_ID    a workflow's events until it ends
//	run starts ADDRESS NAME COUNT    many concurrent starts
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"

	mendflow "tour/gen/mendflow/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 4 {
		log.Fatal("usage: run tour ADDRESS NAME | watch ADDRESS WORKFLOW_ID | starts ADDRESS NAME COUNT")
	}
	connection, err := Connect(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	switch os.Args[1] {
	case "tour":
		err = NewTour(connection, os.Args[3]).Run()
	case "watch":
		err = Watch(connection, os.Args[3], printEvent)
	case "starts":
		var count int
		if count, err = strconv.Atoi(os.Args[4]); err == nil {
			err = startMany(connection, os.Args[3], count)
		}
	default:
		log.Fatalf("no such mode: %s", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func printEvent(event *mendflow.Event) {
	fmt.Printf("watch: %d %s\n", event.Sequence, kindOf(event))
}
