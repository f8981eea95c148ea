#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
# It needs grpcio, grpcio-tools and googleapis-common-protos for the interpreter that PYTHON names (python3).
set -eu
out=${1:?usage: build.sh OUT}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Remove old sources, because a deleted source must not stay.
rm -rf "$out/program"
mkdir -p "$out/program/mendflow/v1"
cp "$here"/*.py "$out/program"
# mendflow/v1 is a separate package here, not a part of an installed mendflow package.
touch "$out/program/mendflow/__init__.py" "$out/program/mendflow/v1/__init__.py"
"$python" -m grpc_tools.protoc -I "$root/protos" -I "$root/examples/protos" \
  --python_out="$out/program" --grpc_python_out="$out/program" \
  "$root"/protos/mendflow/v1/*.proto "$root/examples/protos/examples/order/v1/order.proto"

cat > "$out/run" <<END
#!/bin/sh
exec "$python" "$out/program/main.py" "\$@"
END
chmod +x "$out/run"
