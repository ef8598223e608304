#!/usr/bin/env bash
# Installs what the named purposes need and the machine lacks, through its package manager, and
# says so. Purposes: build, docker, images, proxy, profile, etcd, hosts, bench-proxy.
set -euo pipefail

# After su, Debian leaves the folders of dockerd, service and nft out.
PATH=$PATH:/usr/sbin:/sbin
log=$(mktemp "${TMPDIR:-/tmp}/coracle-require.XXXXXX")
keep_log=
trap '[ -n "$keep_log" ] || rm -f "$log"' EXIT
updated=

fail() {
  echo "require: $*" >&2
  exit 1
}

can_be_root() { # for this command
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "'$1' needs root and there is no sudo: run this as root"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

quietly() { # a command of which only a failure is worth reading
  can_be_root "$1"
  as_root "$@" >"$log" 2>&1 && return
  cat "$log" >&2
  fail "'$*' failed, as told above: put that right and run this again"
}

install_package() { # what Debian calls it, Fedora, Alpine
  echo "require: installing $1"
  if command -v apt-get >/dev/null; then
    [ -n "$updated" ] || quietly apt-get update -qq
    updated=1
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1"
  elif command -v dnf >/dev/null; then
    quietly dnf install -y -q "$2"
  elif command -v apk >/dev/null; then
    quietly apk add --quiet "$3"
  else
    fail "no apt-get, dnf or apk here: please install '$1' yourself and run this again"
  fi
}

need() { # command, then its package names
  command -v "$1" >/dev/null || install_package "${@:2}"
}

start_engine() {
  docker info >/dev/null 2>"$log" && return
  ! grep -q 'permission denied' "$log" || fail "this user may not use the Docker engine: run this as root"
  can_be_root dockerd
  echo "require: starting the Docker engine"
  local engine=
  if [ -d /run/systemd/system ]; then
    quietly systemctl start docker
  elif ! as_root service docker start >"$log" 2>&1; then
    # No service manager, as in a container. It lives on when this script has ended.
    keep_log=1
    as_root setsid dockerd >"$log" 2>&1 &
    engine=$!
  fi
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return
    if [ -n "$engine" ] && ! kill -0 "$engine" 2>/dev/null; then
      tail -n 3 "$log" >&2
      fail "dockerd ended, as told above and in $log: put that right and run this again"
    fi
    sleep 0.2
  done
  fail "the Docker engine does not answer 'docker info': see its log, start it, and run this again"
}

for purpose in "$@"; do
  case $purpose in
    build)
      need cc gcc gcc gcc
      # For the client of etcd.
      need protoc protobuf-compiler protobuf-compiler protoc
      command -v cargo >/dev/null || fail "Rust is missing: install it from rustup.rs and run this again"
      ;;
    docker)
      need docker docker.io docker docker
      start_engine
      ;;
    images) need busybox busybox-static busybox busybox-static ;;
    proxy) need nft nftables nftables nftables ;;
    profile) need perf linux-perf perf perf ;;
    bench-proxy)
      need conntrack conntrack conntrack-tools conntrack-tools
      need nginx nginx-light nginx nginx
      need wrk wrk wrk wrk
      need iperf3 iperf3 iperf3 iperf3
      need haproxy haproxy haproxy haproxy
      need dnsperf dnsperf dnsperf dnsperf
      need dnsmasq dnsmasq-base dnsmasq dnsmasq-base
      ;;
    etcd)
      need etcd etcd-server etcd etcd
      need openssl openssl openssl openssl
      ;;
    hosts)
      need ip iproute2 iproute iproute2
      need iptables iptables iptables iptables
      need nsenter util-linux util-linux util-linux
      ;;
    *) fail "no such purpose: $purpose" ;;
  esac
done
