#!/usr/bin/env bash
# Makes a Debian host a master or a minion:
#   provision.sh [--binary FILE] [--bin-dir DIR] [--foreground] master|minion [FLAGS OF coracle ...]
# Installs what is missing and the binary, forwards packets, and starts Coracle: as a systemd unit that a boot starts
# again, or in the foreground in place of this script. Running it again brings a host up to date.
set -euo pipefail

fail() {
  echo "provision: $*" >&2
  exit 1
}

binary=
bin_dir=/usr/local/bin
foreground=
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=${2:?--binary needs a file} && shift 2 ;;
    --bin-dir) bin_dir=${2:?--bin-dir needs a directory} && shift 2 ;;
    --foreground) foreground=1 && shift ;;
    master | minion) break ;;
    *) fail "unknown argument '$1': give master or minion, then the flags of coracle" ;;
  esac
done
[ $# -gt 0 ] || fail "give the role: master or minion"
role=$1
shift
[ "$(id -u)" = 0 ] || fail "run this as root"

# What is asked by which command, and the package that has it.
needed=(nft:nftables iptables:iptables)
[ "$role" = master ] || needed+=(dockerd:docker.io)
packages=()
for need in "${needed[@]}"; do
  command -v "${need%%:*}" >/dev/null || packages+=("${need#*:}")
done
if [ ${#packages[@]} -gt 0 ]; then
  echo "provision: installing ${packages[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
fi

program=$bin_dir/coracle
if [ -n "$binary" ] && ! cmp -s "$binary" "$program"; then
  # Under another name first: one that runs can't be written to, and nobody may see half of it.
  mkdir -p "$bin_dir"
  install -m 755 "$binary" "$program.$$"
  mv "$program.$$" "$program"
fi
[ -x "$program" ] || fail "$program is not there: give the binary with --binary FILE"
[ "${program##*/bin/}" = coracle ] && ln -sf coracle "$bin_dir/kubecfg"

# Pods reach other hosts through this one.
echo 1 >/proc/sys/net/ipv4/ip_forward

if [ -n "$foreground" ]; then
  exec "$program" "$role" "$@"
fi
[ -d /run/systemd/system ] || fail "systemd does not run here: use --foreground"

echo net.ipv4.ip_forward=1 >/etc/sysctl.d/90-coracle.conf
unit=/etc/systemd/system/coracle-$role.service
{
  printf '[Unit]\nDescription=Coracle %s\nAfter=network-online.target docker.service\nWants=network-online.target\n' "$role"
  printf '\n[Service]\nExecStart=%s' "$program"
  # % and $ mean something in a unit.
  printf ' "%s"' "$role" "$@" | sed 's/%/%%/g; s/\$/$$/g'
  printf '\nRestart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n'
} >"$unit"
systemctl daemon-reload
[ "$role" = master ] || systemctl enable --now --quiet docker
systemctl enable --quiet "coracle-$role"
systemctl restart "coracle-$role"
echo "provision: coracle-$role runs; its log: journalctl -u coracle-$role"
