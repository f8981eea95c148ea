#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
set -eu
out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Remove old sources and libraries, because a deleted one must not stay. The rest of target/ makes the next build faster.
rm -rf "$out/src" "$out/target/lib"
cp -R "$here/pom.xml" "$here/src" "$out"
mvn -q -B -f "$out/pom.xml" -Dprotos="$root/protos" -Dexample.protos="$root/examples/protos" process-classes

cat > "$out/run" <<'END'
#!/bin/sh
# The flags make a short run start faster. Do not use them for a long-running program.
target=$(dirname "$0")/target
exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$target/classes:$target/lib/*" tour.Main "$@"
END
chmod +x "$out/run"
