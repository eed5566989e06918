#!/bin/sh
# leger and legerd as npm installs them: each becomes the bundled program of its name, on the Node 24 that npm brought
# along, or on this machine's own where npm left that out.

self=$(readlink -f "$0")
package=${self%/dist/npm/bin/*}
program=$package/dist/js/${self##*/}.mjs

# It could make Node load, trace or debug anything.
unset NODE_OPTIONS

for node in "$package"/node_modules/node-linux-*/bin/node "${package%/*}"/node-linux-*/bin/node; do
  [ -x "$node" ] && exec "$node" "$program" "$@"
done
case $(node --version 2>/dev/null) in
  v2[4-9].* | v[3-9]?.*) exec node "$program" "$@" ;;
esac
echo "${self##*/}: error: npm brought no Node 24 for this machine, and this machine has none" >&2
echo "${self##*/}: hint: install it again with optional dependencies: npm install -g --include=optional leger" >&2
exit 1
