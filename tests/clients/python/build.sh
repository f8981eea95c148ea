#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
# It needs grpcio, grpcio-tools and googleapis-common-protos beside the interpreter that PYTHON names (python3).
set -eu
out=${1:?usage: build.sh OUT}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# A source that is gone here must not be found there.
rm -rf "$out/program"
mkdir -p "$out/program/mendflow/v1"
cp "$here"/*.py "$out/program"
# mendflow/v1 is a package of its own here, not a part of the mendflow package that may be installed beside it.
touch "$out/program/mendflow/__init__.py" "$out/program/mendflow/v1/__init__.py"
"$python" -m grpc_tools.protoc -I "$root/protos" -I "$root/examples/protos" \
  --python_out="$out/program" --grpc_python_out="$out/program" \
  "$root"/protos/mendflow/v1/*.proto "$root/examples/protos/examples/order/v1/order.proto"

cat > "$out/run" <<END
#!/bin/sh
exec "$python" "$out/program/main.py" "\$@"
END
chmod +x "$out/run"
