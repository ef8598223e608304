#!/usr/bin/env bash
# The article "Scaling Docker with Kubernetes", start to finish, on this machine: prints each
# command and its real output, and leaves nothing behind. Needs root, Docker, the example images
# (`make images`) and the coracle binary, named by CORACLE.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
coracle=$(realpath "${CORACLE:-$(command -v coracle)}")
work=$(mktemp -d /tmp/coracle-demo.XXXXXX)
ln -s "$coracle" "$work/coracle"
ln -s "$coracle" "$work/kubecfg"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' 2>/dev/null || echo 18080)
export KUBERNETES_MASTER=http://127.0.0.1:$port
export PATH=$work:$PATH
cluster=

cleanup() {
  status=$?
  if [ -n "$cluster" ] && kill -0 "$cluster" 2>/dev/null; then
    kill -INT "$cluster"
    wait "$cluster" || true
  fi
  [ ! -d "$work/data" ] || "$coracle" reset --data-dir "$work/data" --yes >"$work/reset.log" 2>&1 || cat "$work/reset.log"
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() {
  printf '\n$ %s\n' "$*"
  "$@"
}
now() { date +%s%3N; }

# Waits until a command succeeds, at most 60 s.
until_true() {
  local deadline=$(($(now) + 60000))
  until "$@" >/dev/null 2>&1; do
    if [ "$(now)" -gt "$deadline" ]; then
      echo "demo: still not true after 60 s: $*" >&2
      kubecfg list pods >&2
      coracle_events >&2
      tail -20 "$work/up.log" >&2
      return 1
    fi
    sleep 0.02
  done
}
coracle_events() { "$coracle" events || true; }
status_of() { kubecfg -template '{{.currentState.status}}' get "pods/$1"; }
has_status() { [ "$(status_of "$1")" = "$2" ]; }
container_of() {
  docker ps -q --no-trunc --filter "label=io.coracle.pod.name=$1" --filter "label=io.coracle.container=$1" \
    --filter "label=io.coracle.cluster=$id"
}
replaced() { local new; new=$(container_of jenkins) && [ -n "$new" ] && [ "$new" != "$1" ]; }
page() { busybox wget -q -O - "http://$1"; }
slaves_connected() {
  local jenkins
  jenkins=$(portal jenkins)
  [ "$(page "$jenkins:8888/api/json" | tr ',' '\n' | grep -c '"name":')" -ge "$1" ]
}
portal() { kubecfg -template '{{.portalIP}}' get "services/$1"; }
slaves_running() {
  [ "$(kubecfg -l name=jenkins-slave list pods | grep -c Running)" = "$1" ] &&
    [ "$(kubecfg -l name=jenkins-slave list pods | grep -c name=jenkins-slave)" = "$1" ]
}
no_slaves() { ! kubecfg -l name=jenkins-slave list pods | grep -q name=jenkins-slave; }

title "A cluster on this machine: coracle up"
printf '\n$ coracle up --data-dir %s --listen 127.0.0.1:%s &\n' "$work/data" "$port"
started=$(now)
"$coracle" up --data-dir "$work/data" --listen "127.0.0.1:$port" >"$work/up.log" 2>&1 &
cluster=$!
until_true grep -q '^ready' "$work/up.log"
echo "ready after $(($(now) - started)) ms:"
sed 's/^/    /' "$work/up.log"
id=$(page "127.0.0.1:$port/coracle/v1/cluster" | sed 's/.*"clusterID":"\([0-9a-f]*\)".*/\1/')
run kubecfg list minions
run kubecfg list pods

title "Create the Jenkins pod"
run kubecfg -c "$here/pod.json" create pods
until_true has_status jenkins Running
run kubecfg list pods

title "Services: how pods find each other"
run kubecfg -c "$here/service-http.json" create services
run kubecfg -c "$here/service-slave.json" create services
run kubecfg list services
jenkins=$(portal jenkins)
until_true page "$jenkins:8888/login"
printf '\n$ busybox wget -q -O - http://%s:8888/\n' "$jenkins"
page "$jenkins:8888/" | head -15

title "Replicate the slaves"
run kubecfg -c "$here/replication.json" create replicationControllers
until_true slaves_running 1
run kubecfg list pods
until_true slaves_connected 1
slave=$(docker ps -q --filter "label=io.coracle.container=jenkins-slave" --filter "label=io.coracle.cluster=$id" | head -1)
echo
echo "The slave found its master through these variables:"
run docker exec "$slave" sh -c 'env | grep -E "^JENKINS(_SLAVE)?_SERVICE_" | sort'
printf '\n$ busybox wget -q -O - --post-data "" http://%s:8888/build\n' "$jenkins"
busybox wget -q -O - --post-data '' "http://$jenkins:8888/build"
echo

title "Resize"
run kubecfg resize jenkins-slave 2
until_true slaves_running 2
until_true slaves_connected 2
run kubecfg list pods

title "Kill the Jenkins container, and watch it heal"
victim=$(container_of jenkins)
instance=$(page "$jenkins:8888/api/json" | tr ',{' '\n\n' | grep '"instance"' | head -1)
printf '\n$ docker kill %.12s\n' "$victim"
killed=$(now)
docker kill "$victim" >/dev/null
dead=$(kubecfg list pods)
until_true replaced "$victim"
running=$(now)
printf '\n$ kubecfg list pods\n%s\n\n' "$dead"
echo "a new container is running $((running - killed)) ms after the kill"
until_true has_status jenkins Running
run kubecfg list pods
until_true page "$jenkins:8888/login"
until_true slaves_connected 2
echo
echo "The slaves are back, and the volume survived:"
echo "    before: $instance"
after=$(page "$jenkins:8888/api/json" | tr ',{' '\n\n' | grep '"instance"' | head -1)
echo "    after:  $after"
[ "$instance" = "$after" ] || { echo "demo: the data in the volume was lost" >&2; exit 1; }
run coracle events --for pods/jenkins

title "Tear down"
run kubecfg stop jenkins-slave
until_true no_slaves
run kubecfg rm jenkins-slave
run kubecfg delete pods/jenkins
run kubecfg delete services/jenkins
run kubecfg delete services/jenkins-slave
run kubecfg list pods
run kubecfg list services
printf '\n$ kill -INT %s   # Ctrl-C\n' "$cluster"
kill -INT "$cluster"
wait "$cluster" || true
tail -3 "$work/up.log"
cluster=
run coracle reset --data-dir "$work/data" --yes
left=$(docker ps -aq --filter "label=io.coracle.cluster=$id" | wc -l)
nets=$(docker network ls -q --filter "label=io.coracle.cluster=$id" | wc -l)
rules=$(nft list tables 2>/dev/null | grep -c "coracle-$id" || true)
echo
echo "left behind: $left containers, $nets networks, $rules rule tables"
[ "$left$nets$rules" = 000 ] && [ ! -e "$work/data" ]
