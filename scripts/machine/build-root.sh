#!/bin/sh
# build-root: a Debian with systemd and Podman in a directory, for machines that tests boot.
# Usage: build-root.sh RELEASE DIRECTORY [PACKAGE…]. Its text is part of the cache's key: a change here builds anew.
set -eu
release=$1 directory=$2
shift 2
packages=$(printf '%s,' "$@")

building=$directory.building
rm -rf "$building"
# A testing release may lie in a mirror whose index has lapsed.
mmdebstrap --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
  --include="${packages%,}" "$release" "$building"
inside() { chroot "$building" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }

# The builder's own names: every machine has one of its own.
rm -f "$building/etc/hostname" "$building/etc/resolv.conf"
tr -d - </proc/sys/kernel/random/uuid >"$building/etc/machine-id"

# alice (1000) has a user manager from boot to shutdown.
inside useradd --create-home --shell /bin/bash --uid 1000 alice
mkdir -p "$building/var/lib/systemd/linger" "$building/var/log/journal"
touch "$building/var/lib/systemd/linger/alice"

# Nothing that a machine without network and modules would wait for, and no work on the side.
inside systemctl --quiet add-wants multi-user.target network-online.target
inside systemctl --quiet mask systemd-modules-load.service apt-daily.timer apt-daily-upgrade.timer \
  dpkg-db-backup.timer podman-auto-update.timer podman-restart.service e2scrub_all.timer fstrim.timer \
  systemd-firstboot.service console-getty.service

mkdir -p "$building/etc/systemd/journald.conf.d"
cat >"$building/etc/systemd/journald.conf.d/tests.conf" <<'CONF'
[Journal]
Storage=persistent
RateLimitIntervalSec=0
CONF

# What a container can have in here: no control groups, keyrings or limits of its own, and no network.
cat >"$building/etc/containers/containers.conf" <<'CONF'
[containers]
keyring = false
default_sysctls = []
cgroups = "disabled"
netns = "none"
default_ulimits = ["nofile=1000:1000", "nproc=5000:5000"]
CONF

# Podman 4.3 takes every line of /proc/self/cgroup for a directory below /sys/fs/cgroup, and where one isn't the user's it moves
# itself out of its unit, which ends with that. Hierarchies of version 1 that the host has have such a line: "/".
if [ "$release" = bookworm ]; then
  mkdir -p "$building/etc/systemd/system/user@.service.d"
  printf '[Service]\nExecStartPre=+chown %%i /sys/fs/cgroup\n' >"$building/etc/systemd/system/user@.service.d/podman.conf"
fi

# An image without a registry: busybox and its names, for "podman import".
image=$building/usr/share/test-image
mkdir -p "$image/bin" "$image/etc" "$image/tmp" "$image/proc" "$image/sys" "$image/dev" "$image/run"
cp "$building/bin/busybox" "$image/bin/busybox"
inside busybox --list | while read -r name; do
  [ "$name" = busybox ] || ln -s busybox "$image/bin/$name"
done
# A program for containers: it stays until it is told to end.
printf '#!/bin/sh\ntrap "exit 0" TERM INT\nsleep 1000000 &\nwait\n' >"$image/bin/stay"
chmod 755 "$image/bin/stay"
tar --create --file "$building/usr/share/test-image.tar" --directory "$image" .
rm -rf "$image"

mv "$building" "$directory"
