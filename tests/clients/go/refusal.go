package main

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Refusal is an error status. Its details are messages of google.rpc for programs, and its text is for people.
type Refusal struct {
	// Code is the status code's name, as in google.rpc.
	Code    string
	details []any
}

// refusalOf converts the error of a call that the server must refuse.
func refusalOf(err error) Refusal {
	found := status.Convert(err)
	return Refusal{code.Code(found.Code()).String(), found.Details()}
}

// detail returns the detail of this type.
func detail[M proto.Message](refusal Refusal) (M, error) {
	for _, each := range refusal.details {
		if message, ok := each.(M); ok {
			return message, nil
		}
	}
	var none M
	return none, fmt.Errorf("%s without %T", refusal.Code, none)
}
