#!/bin/sh
# as-root: installs leger with npm in a bare Debian 12, has as-alice.sh try it, and takes it away again.
set -eu
say() { printf '\n-- %s\n' "$*"; }
fail() { printf 'test:npm: FAILED: %s\n' "$*" >&2; exit 1; }

say "npm install -g, with the machine's npm $(npm --version) on Node $(node --version)"
case $(node --version) in v18.*) ;; *) fail "Debian 12 has Node 18" ;; esac
install() { npm install -g --no-fund --no-audit --no-update-notifier --loglevel=error /mnt/leger.tgz; }
install
[ "$(command -v leger)" = /usr/local/bin/leger ] || fail "leger is not in npm's bin directory"
[ "$(command -v legerd)" = /usr/local/bin/legerd ] || fail "legerd is not in npm's bin directory"
leger --version | grep -q 'Node 24\.' || fail "leger does not run on Node 24"
legerd --version | grep -q 'Node 24\.' || fail "legerd does not run on Node 24"
package=/usr/local/lib/node_modules/leger
for file in LICENSE CHANGELOG.md dist/npm/THIRD-PARTY dist/npm/completions/zsh/_leger containers.conf.d/50-leger.conf \
  packaging/systemd/user/legerd.service packaging/systemd/system/legerd.socket schemas quadlets docs/troubleshooting.md; do
  [ -e "$package/$file" ] || fail "the package has no $file"
done
[ ! -e "$package/src" ] || fail "the package has source that Node would not run there"
for page in man1/leger.1 man1/leger-secrets.1 man5/legerd.json.5 man8/legerd.8; do
  [ -e "/usr/local/share/man/$page" ] || fail "npm put no manual page $page in place"
done
# Nothing but Node, and only this machine's.
others=$(ls "$package/node_modules" | grep -v '^node-linux-' || true)
[ -z "$others" ] || fail "it brought other packages along: $others"
[ "$(ls -d "$package"/node_modules/node-linux-* | wc -l)" -eq 1 ] || fail "it brought another machine's Node along"

mkdir -m 700 /run/user /run/user/1000
chmod 755 /run/user
chown alice: /run/user/1000
runuser -u alice -- env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/home/alice LC_ALL=C.UTF-8 \
  XDG_RUNTIME_DIR=/run/user/1000 sh /mnt/as-alice.sh

say "root's own, with the system's places"
leger podman install --dry-run | grep -qx 'wrote     /etc/containers/containers.conf.d/50-leger.conf' ||
  fail "leger podman install --dry-run does not say where it writes"

say "installed again, it is in the same place; uninstalled, nothing of it is left but secrets"
install
[ "$(command -v leger)" = /usr/local/bin/leger ] || fail "leger has moved"
npm uninstall -g --no-update-notifier --loglevel=error leger
left=$(find /usr/local -iname '*leger*')
[ -z "$left" ] || fail "still there: $left"
[ -e /home/alice/.local/state/legerd/secrets.db ] || fail "alice's secrets are gone"

say "without Node 24, it says what is missing"
install
# As newer npm leaves it with --omit=optional, which npm 9 does not heed here.
rm -r "$package"/node_modules/node-linux-*
status=0
said=$(leger secrets list 2>&1) || status=$?
[ "$status" -eq 1 ] || fail "exit status $status"
printf '%s\n' "$said"
case $said in
  "leger: error: npm brought no Node 24"*"leger: hint: "*) ;;
  *) fail "that is not what it should say" ;;
esac
printf '\ntest:npm: passed\n'
