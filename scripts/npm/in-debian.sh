#!/bin/sh
# in-debian: runs as-root.sh in a Debian's root directory, which stays as it is: what is written lies in memory. In
# namespaces of its own for mounts and processes.
# Usage: in-debian.sh ROOT WORK REGISTRY; WORK/shared is the Debian's /mnt.
set -eu
root=$1 work=$2 registry=$3
mkdir "$work/memory"
mount -t tmpfs -o size=3g,mode=755 tmpfs "$work/memory"
cd "$work/memory"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$root,upperdir=upper,workdir=work" root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount --bind "$work/shared" root/mnt
mount -t tmpfs -o mode=755 tmpfs root/run
cp "$work/shared/resolv.conf" root/etc/resolv.conf
set -- PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "npm_config_registry=$registry"
[ ! -e "$work/shared/ca.crt" ] || set -- "$@" npm_config_cafile=/mnt/ca.crt
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  eval "value=\${$name-}"
  [ -z "$value" ] || set -- "$@" "$name=$value"
done
exec chroot root env -i "$@" sh /mnt/as-root.sh
