package main

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Refusal is a status that is not OK. Its details are messages of google.rpc for programs; the text is for people.
type Refusal struct {
	// Code is the status code's name, as in the contract.
	Code    string
	details []any
}

// refusalOf reads the error of a call that was expected to be refused.
func refusalOf(err error) Refusal {
	found := status.Convert(err)
	return Refusal{code.Code(found.Code()).String(), found.Details()}
}

// detail answers the detail of this type.
func detail[M proto.Message](refusal Refusal) (M, error) {
	for _, each := range refusal.details {
		if message, ok := each.(M); ok {
			return message, nil
		}
	}
	var none M
	return none, fmt.Errorf("%s without %T", refusal.Code, none)
}
