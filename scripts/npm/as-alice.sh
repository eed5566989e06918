#!/bin/sh
# as-alice: tries leger as npm installed it, as a user does: legerd, secrets, the driver, an env file, a drop-in, doctor.
set -eu
cd
say() { printf '\n-- %s\n' "$*"; }
fail() { printf 'test:npm: FAILED: %s\n' "$*" >&2; exit 1; }
same() { printf %b "$1" | cmp - "$2" || fail "$3"; }

say "legerd starts, and keeps what it is given"
legerd 2>said &
legerd=$!
tries=0
until grep -q 'legerd: ready' said; do
  tries=$((tries + 1))
  [ "$tries" -le 600 ] && kill -0 "$legerd" || fail "legerd is not ready: $(cat said)"
  sleep 0.1
done
[ "$(readlink "/proc/$legerd/exe")" = "$(ls /usr/local/lib/node_modules/leger/node_modules/node-linux-*/bin/node)" ] ||
  fail "legerd is not the process that was started"
printf 'the value \303\244\n' | leger secrets set db_password
leger secrets get db_password >got
same 'the value \0303\0244\n' got "secrets get"

say "leger podman install writes the path at which npm put leger"
leger podman install --dry-run
[ ! -e .config/containers ] || fail "--dry-run wrote something"
leger podman install
conf=.config/containers/containers.conf.d/50-leger.conf
command_of() { sed -n "s/^$1 = '\(.*\)'\$/\1/p" "$conf"; }
case $(command_of lookup) in
  *"; exec /usr/local/bin/leger driver lookup") ;;
  *) fail "not npm's leger: $(command_of lookup)" ;;
esac

say "Podman's own commands give the exact bytes, whatever the environment wants of Node"
id=5d41402abc4b2a76b9719d911
echo 'require("fs").writeFileSync("/tmp/proof", "ran")' >/tmp/evil.js
# Its output is in the file got. What a busy machine made too late is asked again: this is not about speed.
as_podman() {
  for _ in 1 2 3 4 5 6; do
    status=0
    env -i PATH="$PATH" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" SECRET_ID=$id PODMAN_SYSTEMD_UNIT=web.service \
      NODE_OPTIONS=--require=/tmp/evil.js sh -c "$(command_of "$1")" <input >got 2>error || status=$?
    grep -q 'within [0-9.]* s' error || break
  done
  cat error
  return $status
}
printf leger-ref:v1:leger/local/db_password >input
as_podman store
as_podman lookup
same 'the value \0303\0244\n' got "driver lookup"
as_podman list
same "$id\n" got "driver list"
printf rotated | leger secrets set db_password --activate
as_podman lookup
same rotated got "driver lookup after a rotation"
as_podman delete
as_podman lookup || true
[ "$status" -eq 66 ] && [ ! -s got ] || fail "lookup of what was deleted: exit status $status"
[ ! -e /tmp/proof ] || fail "NODE_OPTIONS was obeyed"

say "an env file, and a drop-in with the path of npm's leger"
leger services set web db_password
leger secrets fetch web
same 'DB_PASSWORD=rotated\n' "$XDG_RUNTIME_DIR/leger/env/web.env" "secrets fetch"
mkdir -p .config/containers/systemd
printf '[Container]\nImage=localhost/bb:1\nSecret=db_password,type=env,target=DB_PASSWORD\n' >.config/containers/systemd/web.container
leger render web --mode env-file --podman-version 5.4.2
grep -qx 'ExecStartPre=/usr/local/bin/leger secrets fetch web' .config/containers/systemd/web.container.d/50-leger.conf ||
  fail "the drop-in does not name npm's leger: $(cat .config/containers/systemd/web.container.d/50-leger.conf)"

say "leger doctor looks at all of it"
status=0
leger doctor || status=$?
case $status in 0 | 2) ;; *) fail "leger doctor: exit status $status" ;; esac
leger doctor --json >report || true
node -e '
  const { checks } = JSON.parse(require("fs").readFileSync("report", "utf8"));
  const level = (name) => checks.find(({ check }) => check === name)?.level;
  for (const name of ["legerd", "socket", "driver"]) if (level(name) !== "ok") throw new Error(`${name}: ${level(name)}`);
' || fail "leger doctor does not find legerd in order"

say "all is taken away again"
leger podman uninstall
[ ! -e $conf ] || fail "the drop-in stays"
kill "$legerd"
status=0
wait "$legerd" || status=$?
[ "$status" -eq 0 ] || fail "legerd: exit status $status"
