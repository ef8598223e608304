#!/usr/bin/env bash
# Builds the example images from this tree and imports them into the Docker engine of DOCKER_HOST; nothing is pulled.
# An image that is there already with the same content is left alone, so that running this again costs next to nothing.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "$*" >&2; exit 1; }

busybox=$(command -v busybox) || die "busybox is missing: apt-get install busybox-static"
# ldd succeeds on what needs shared libraries, and the images have none.
! ldd "$busybox" >/dev/null 2>&1 || die "busybox is not static: apt-get install busybox-static"

target=$(rustc -vV | sed -n 's/^host: //p')
target_dir="${CARGO_TARGET_DIR:-target}/images"
# With --target the flags hold for the program alone: procedural macros cannot be linked statically.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --release --target "$target" \
  -p coracle-example-images --target-dir "$target_dir"
program="$target_dir/$target/release/coracle-example"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the images share: a shell, the tools that people and scripts reach for, and somewhere to write.
base=$work/busybox
mkdir -p "$base"/{bin,etc,root,tmp,usr/local/bin}
chmod 1777 "$base/tmp"
cp "$busybox" "$base/bin/busybox"
for applet in awk basename cat chmod cp cut date dd df dirname du echo env false find free grep head hostname id \
  ifconfig ip kill ln ls md5sum mkdir mktemp mount mv nc netstat ping printf ps pwd readlink rm rmdir route sed seq \
  sh sha256sum sleep sort stat sync tail tar tee test touch tr true uname uniq vi wc wget which whoami xargs yes; do
  ln -s busybox "$base/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$base/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$base/etc/group"

# with_program NAME: a root beside the base that has the program too, under the name that it answers to.
with_program() {
  local root=$work/$1
  cp -a "$base" "$root"
  cp "$program" "$root/usr/local/bin/coracle-example"
  ln -s coracle-example "$root/usr/local/bin/$1"
}

# import IMAGE ROOT CHANGE...: the image has the files of ROOT and the Dockerfile instructions CHANGE...
import() {
  local image=$1 root=$2 change changes=()
  shift 2
  for change in "$@" "LABEL io.coracle.example=true"; do changes+=(--change "$change"); done
  tar --create --file "$root.tar" --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
  local digest present
  digest=$({ cat "$root.tar"; printf '%s\n' "${changes[@]}"; } | sha256sum | cut -d' ' -f1)
  present=$(docker image inspect --format '{{index .Config.Labels "io.coracle.digest"}}' "$image" 2>/dev/null || true)
  if [[ $present == "$digest" ]]; then
    echo "$image is up to date"
    return
  fi
  docker import "${changes[@]}" --change "LABEL io.coracle.digest=$digest" "$root.tar" "$image" >/dev/null
  # The image that had this name before has none now.
  docker image prune --force --filter label=io.coracle.example=true >/dev/null
  echo "$image imported"
}

import coracle/busybox:1 "$base" 'CMD ["sh"]'

with_program jenkins
mkdir -p "$work/jenkins/var/jenkins_home"
import csanchez/jenkins-swarm:1.565.3.3 "$work/jenkins" \
  'CMD ["/usr/local/bin/jenkins"]' 'EXPOSE 8080' 'EXPOSE 50000'

# No entry point: the article's manifest gives a command of its own, whichever of the two that replaces.
with_program jenkins-slave
install -m 755 examples/images/jenkins-slave.sh "$work/jenkins-slave/usr/local/bin/jenkins-slave.sh"
import csanchez/jenkins-swarm-slave:1.21 "$work/jenkins-slave" 'CMD ["/usr/local/bin/jenkins-slave.sh"]'

with_program guestbook
mkdir "$work/guestbook/data"
import coracle/guestbook:1 "$work/guestbook" \
  'ENTRYPOINT ["/usr/local/bin/guestbook"]' 'CMD ["frontend"]' 'EXPOSE 3000' 'EXPOSE 6379'

with_program echo
import coracle/echo:1 "$work/echo" 'ENTRYPOINT ["/usr/local/bin/echo"]' 'EXPOSE 8080'
