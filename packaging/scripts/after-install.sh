#!/bin/sh
# After the package's files are in place. $1 is a word from dpkg, from rpm the number of versions there are. Nothing is
# enabled here; what was running goes on, with the new programs.
set -e

# managers COMMAND…: runs it with systemctl's options for the system's manager and for that of each logged-in user.
managers() {
  "$@" --system
  for uid in $(systemctl list-units --plain --no-legend --state=active 'user@*.service' |
    sed -n 's/^user@\([0-9]*\)\.service.*/\1/p'); do
    "$@" --user "--machine=$uid@"
  done
}

# A manager that doesn't answer must not keep the installation.
ask() { timeout 60 systemctl --quiet "$@"; }

# Only the service is restarted: legerd.socket goes on listening, and who connects meanwhile waits for the new one. The
# socket is started where it was enabled and isn't there: after a removal, or when the service could not start.
renew() {
  if ! { ask "$@" daemon-reload && ask "$@" try-restart legerd.service; }; then
    echo "leger: legerd could not be restarted (systemctl $*); it goes on as it was until you do" >&2
  elif ask "$@" is-enabled legerd.socket >/dev/null 2>&1 && ! ask "$@" start legerd.socket; then
    echo "leger: legerd.socket could not be started (systemctl $*)" >&2
  fi
}

case "$1" in
  configure | abort-* | [1-9]*) ;;
  *) exit 0 ;;
esac

[ -d /run/systemd/system ] || exit 0
# Who builds an image, or may not start anything, says so (Debian's policy-rc.d).
if PATH="/usr/sbin:$PATH" command -v policy-rc.d >/dev/null; then
  status=0
  PATH="/usr/sbin:$PATH" policy-rc.d legerd restart || status=$?
  [ "$status" -ne 101 ] || exit 0
fi
managers renew
