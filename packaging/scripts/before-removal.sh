#!/bin/sh
# Before the package's files go. $1 is a word from dpkg, from rpm the number of versions that will remain.
set -e

case "$1" in
  remove | deconfigure | 0) ;;
  *) exit 0 ;;
esac

# Podman would go on asking a leger that isn't there.
for directory in /etc/containers/containers.conf.d /root/.config/containers/containers.conf.d; do
  for file in "$directory"/*.conf; do
    if [ -e "$file" ] && grep -q 'leger driver' "$file"; then
      echo "leger: $file still makes leger Podman's secret driver, and Podman can keep no new secret until" >&2
      echo "leger: it is removed; \"leger podman uninstall\" does that, where leger is" >&2
    fi
  done
done

[ -d /run/systemd/system ] || exit 0
ask() { timeout 60 systemctl --quiet "$@" || true; }
ask --system stop legerd.socket legerd.service
for uid in $(systemctl list-units --plain --no-legend --state=active 'user@*.service' |
  sed -n 's/^user@\([0-9]*\)\.service.*/\1/p'); do
  ask --user "--machine=$uid@" stop legerd.socket legerd.service
done
