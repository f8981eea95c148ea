#!/bin/sh
# Builds the program into the folder OUT and writes OUT/run, which takes the program's arguments.
set -eu
out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# A source or a library that is gone here must not be found there; the rest of target/ stays, so that building again is
# quick.
rm -rf "$out/src" "$out/target/lib"
cp -R "$here/pom.xml" "$here/src" "$out"
mvn -q -B -f "$out/pom.xml" -Dprotos="$root/protos" -Dexample.protos="$root/examples/protos" process-classes

cat > "$out/run" <<'END'
#!/bin/sh
# The flags make a short run start sooner; a program that runs for long does better without them.
target=$(dirname "$0")/target
exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$target/classes:$target/lib/*" tour.Main "$@"
END
chmod +x "$out/run"
