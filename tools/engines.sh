#!/usr/bin/env bash
# The engines and tools of the tests that no wheel brings: two stores, and what cuts clusters in
# network namespaces. Installs Debian's packages as root (or by sudo), and else says what to install.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
missing=()
command -v memcached >/dev/null || missing+=(memcached)
command -v mariadbd >/dev/null || missing+=(mariadb-server)
command -v ip >/dev/null || missing+=(iproute2)
command -v nft >/dev/null || missing+=(nftables)
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" != 0 ]; then
  sudo=(sudo -n)
fi
if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
  echo "the tests need ${missing[*]}; install them (Debian: apt-get install ${missing[*]})" >&2
  exit 1
fi
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# RUNLEVEL: the tests start their own servers; Debian's services stay off.
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
