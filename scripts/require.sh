#!/usr/bin/env bash
# Installs what the named purposes need and the machine lacks, through its package manager, and
# says so. Purposes: build, docker, images, proxy.
set -euo pipefail

updated=
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

fail() {
  echo "require: $*" >&2
  exit 1
}

install_package() { # what Debian calls it, Fedora, Alpine
  echo "require: installing $1"
  if command -v apt-get >/dev/null; then
    [ -n "$updated" ] || as_root apt-get update -qq
    updated=1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >/dev/null
  elif command -v dnf >/dev/null; then
    as_root dnf install -y -q "$2"
  elif command -v apk >/dev/null; then
    as_root apk add --quiet "$3"
  else
    fail "no apt-get, dnf or apk here: please install '$1' yourself and run this again"
  fi
}

need() { # command, then its package names
  command -v "$1" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || install_package "${@:2}"
}

start_engine() {
  docker info >/dev/null 2>&1 && return
  echo "require: starting the Docker engine"
  as_root systemctl start docker >/dev/null 2>&1 || as_root service docker start >/dev/null 2>&1 ||
    (as_root setsid dockerd >/tmp/dockerd.log 2>&1 &)
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return
    sleep 0.2
  done
  fail "the Docker engine does not answer 'docker info': start it (see /tmp/dockerd.log) and run this again"
}

for purpose in "$@"; do
  case $purpose in
    build)
      need cc gcc gcc gcc
      command -v cargo >/dev/null || fail "Rust is missing: install it from rustup.rs and run this again"
      ;;
    docker)
      need docker docker.io docker docker
      start_engine
      ;;
    images) need busybox busybox-static busybox busybox-static ;;
    proxy)
      need nft nftables nftables nftables
      need conntrack conntrack conntrack-tools conntrack-tools
      ;;
    *) fail "no such purpose: $purpose" ;;
  esac
done
