#!/bin/sh
# After the package's files have gone. $1 is a word from dpkg, from rpm the number of versions that remain. Secrets
# are deleted by purge alone, and then only the system's.
set -e

state=/var/lib/legerd
# What "leger podman install" wrote down for an uninstall, for which there is no leger any more.
record=/var/lib/leger

case "$1" in
  remove | 0)
    if [ -d "$state" ]; then
      echo "leger: $state stays, with the system's secrets and their main key" >&2
    fi
    echo "leger: what users have stays: ~/.local/state/legerd (secrets), ~/.config/leger, and where they made" >&2
    echo "leger: leger Podman's driver, ~/.config/containers/containers.conf.d/50-leger.conf" >&2
    ;;
  purge)
    if [ -e "$state" ] || [ -L "$state" ]; then
      echo "leger: deleting $state: the system's secrets, their main key and the audit log" >&2
      rm -rf --one-file-system -- "$state"
    fi
    if [ -f "$record/podman-install.json" ]; then
      echo "leger: deleting $record/podman-install.json: what root's \"leger podman install\" changed" >&2
      rm -f -- "$record/podman-install.json"
      rmdir -- "$record" 2>/dev/null || true
    fi
    # Links that "systemctl enable" made.
    for manager in system user; do
      for unit in legerd.socket legerd.service; do
        find "/etc/systemd/$manager" -type l -name "$unit" -path '*.wants/*' -delete 2>/dev/null || true
      done
    done
    echo "leger: left as they are: /etc/leger, containers.conf.d, Podman's entries, and of each user" >&2
    echo "leger: ~/.local/state/legerd (secrets and main key) and ~/.config/leger" >&2
    ;;
  *) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
  timeout 60 systemctl --system daemon-reload || true
  for uid in $(systemctl list-units --plain --no-legend --state=active 'user@*.service' |
    sed -n 's/^user@\([0-9]*\)\.service.*/\1/p'); do
    timeout 60 systemctl --user "--machine=$uid@" daemon-reload || true
  done
fi
