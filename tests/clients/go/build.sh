#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
# It needs Go, and grpcio-tools, which has protoc, for the interpreter that PYTHON names (python3).
set -eu
out=${1:?usage: build.sh OUT}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Remove old sources, because a deleted source must not stay.
rm -rf "$out/program"
mkdir -p "$out/program/gen"
cp "$here"/*.go "$here/go.mod" "$here/go.sum" "$out/program"
GOBIN="$out/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
GOBIN="$out/bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
# The protos name a Go package. Map it to a folder of this module.
options=
for name in error_reason event failure operator_service payload workflow workflow_service; do
  options="$options,Mmendflow/v1/$name.proto=tour/gen/mendflow/v1"
done
options="module=tour/gen,Mexamples/order/v1/order.proto=tour/gen/examples/order/v1$options"
PATH="$out/bin:$PATH" "$python" -m grpc_tools.protoc -I "$root/protos" -I "$root/examples/protos" \
  --go_out="$out/program/gen" --go_opt="$options" --go-grpc_out="$out/program/gen" --go-grpc_opt="$options" \
  "$root"/protos/mendflow/v1/*.proto "$root/examples/protos/examples/order/v1/order.proto"
cd "$out/program"
go build -o "$out/run" .
