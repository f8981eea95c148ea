package main

import (
	"encoding/json"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	order "tour/gen/examples/order/v1"
	mendflow "tour/gen/mendflow/v1"
)

// Item is a line of an order, as JSON.
type Item struct {
	SKU        string  `json:"sku"`
	PriceCents int64   `json:"price_cents"`
	WeightKG   float64 `json:"weight_kg"`
	Quantity   int64   `json:"quantity"`
}

// Order is the input of place_order, as JSON.
type Order struct {
	OrderID     string  `json:"order_id"`
	Items       []Item  `json:"items"`
	Ledger      string  `json:"ledger"`
	PackingTime float64 `json:"packing_time"`
}

// Receipt is the output of place_order, as JSON.
type Receipt struct {
	ChargedCents int64    `json:"charged_cents"`
	Parcels      []string `json:"parcels"`
}

// asJSON returns a value as a JSON payload, which every workflow accepts.
func asJSON(value any) *mendflow.Payload {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // Structs of strings and numbers can always be marshaled.
	}
	return &mendflow.Payload{Kind: &mendflow.Payload_Json{Json: string(text)}}
}

// asMessage returns an order as the message that `mendflow export-protos` generated for its type.
func asMessage(from Order) *mendflow.Payload {
	input := &order.PlaceOrderInput{
		OrderId:     proto.String(from.OrderID),
		Ledger:      proto.String(from.Ledger),
		PackingTime: proto.Float64(from.PackingTime),
	}
	for _, item := range from.Items {
		input.Items = append(input.Items, &order.Item{
			Sku:        proto.String(item.SKU),
			PriceCents: proto.Int64(item.PriceCents),
			WeightKg:   proto.Float64(item.WeightKG),
			Quantity:   proto.Int64(item.Quantity),
		})
	}
	packed, err := anypb.New(input)
	if err != nil {
		panic(err)
	}
	return &mendflow.Payload{Kind: &mendflow.Payload_Message{Message: packed}}
}
