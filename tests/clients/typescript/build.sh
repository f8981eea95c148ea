#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
set -eu
out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Remove old sources, because a deleted source must not stay.
rm -rf "$out/src" "$out/build" "$out/protos" "$out/examples"
mkdir -p "$out/examples"
cp -R "$here/src" "$here/package.json" "$here/package-lock.json" "$here/buf.gen.yaml" "$here/tsconfig.json" "$out"
cp -R "$root/protos" "$out"
cp -R "$root/examples/protos" "$out/examples"
# Remove generated code that was copied from the source folder.
rm -rf "$out/src/gen"

cd "$out"
# Install the packages only if the lock file changed, so that the next build is faster.
if ! cmp -s package-lock.json installed; then
  rm -f installed
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  cp package-lock.json installed
fi
npm run --silent generate
npm run --silent build

cat > run <<'END'
#!/bin/sh
exec node "$(dirname "$0")/build/main.js" "$@"
END
chmod +x run
