#!/usr/bin/env bash
# A private container engine and the images of docker-compose.yml, without an image registry.
#
#   lab.sh up DIR      start the engine below DIR and make the stand-in images
#   lab.sh env DIR     print the two variables that point a docker client at it
#   lab.sh down DIR    stop it and put the machine's network settings back
#   lab.sh check DIR   list what a `down` has left behind (nothing, and exit 0, when it is clean)
#
# Needs root, dockerd (Debian: docker.io), debootstrap, iptables, and a Debian package mirror: the one in
# this machine's debian.sources. DIR keeps the downloaded base system, so that the next start is quick.
# The stand-ins are python:3.11-slim-bookworm (debootstrap + the machine's CA bundle, so that pip works in
# a build on this machine's network) and redis:7 (Debian's 7.0). They are for tests, never for production.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

command=${1:?usage: lab.sh up|env|down|check DIR}
LAB=${2:?usage: lab.sh up|env|down|check DIR}
S=$LAB/s
BASE=python:3.11-slim-bookworm
REDIS=redis:7
export DOCKER_HOST=unix://$S/d.sock DOCKER_CONFIG=$LAB/cli DOCKER_BUILDKIT=1

say() { echo "lab: $*" >&2; }

plugins() { # compose and buildx from the next Debian release: unpacked below LAB, not installed
  [ -e "$LAB/cli/cli-plugins/docker-compose" ] && return
  say "fetching the compose and buildx plugins"
  local apt=$LAB/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$LAB/deb" "$LAB/cli/cli-plugins"
  awk 'BEGIN{RS=""} NR==1' /etc/apt/sources.list.d/debian.sources |
    sed 's/^Suites:.*/Suites: trixie/' > "$apt/newer.sources"
  local options=(-o "Dir::Etc::sourcelist=$apt/newer.sources" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update
  (cd "$LAB/deb" && apt-get "${options[@]}" -qq download docker-compose docker-buildx)
  for deb in "$LAB"/deb/*.deb; do dpkg-deb -x "$deb" "$LAB/unpacked"; done
  ln -sf "$LAB"/unpacked/usr/libexec/docker/cli-plugins/docker-* "$LAB/cli/cli-plugins/"
}

engine() {
  if docker info > /dev/null 2>&1; then say "engine is up already"; return; fi
  say "starting dockerd"
  mkdir -p "$S"
  sysctl -n net.ipv4.ip_forward > "$S/ip_forward.before"
  iptables -S FORWARD | awk '/^-P/{print $3}' > "$S/forward_policy.before"
  local link mtu
  link=$(ip route show default | awk '{print $5; exit}')
  mtu=$(cat "/sys/class/net/$link/mtu")
  # nofile: where root lacks CAP_SYS_RESOURCE no hard limit can be raised, and dockerd's default is above ours
  setsid dockerd -H "$DOCKER_HOST" --data-root "$S/data" --exec-root "$S/exec" --pidfile "$S/pid" \
    --default-ulimit nofile=16384:16384 --mtu "$mtu" > "$S/log" 2>&1 < /dev/null &
  for _ in $(seq 240); do docker info > /dev/null 2>&1 && return; sleep .25; done
  say "dockerd did not come up; the end of its log:"; tail -20 "$S/log" >&2; return 1
}

base_image() {
  docker image inspect "$BASE" > /dev/null 2>&1 && return
  local root=$LAB/root
  if [ ! -e "$root/.complete-with-headers" ]; then
    say "debootstrap (about a minute)"
    rm -rf "$root"
    local mirror
    mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    # python3-dev: the headers, which the image that this stands in for has as well
    debootstrap --variant=minbase \
      --include=python3,python3-dev,python3-pip,python3-venv,ca-certificates \
      bookworm "$root" "$mirror" > "$LAB/debootstrap.log" 2>&1 ||
      { tail -20 "$LAB/debootstrap.log" >&2; return 1; }
    chroot "$root" apt-get clean
    rm -rf "$root"/var/lib/apt/lists/* "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"
    ln -sf /usr/bin/python3 "$root/usr/local/bin/python"
    ln -sf /usr/bin/python3 "$root/usr/local/bin/python3"
    touch "$root/.complete-with-headers"
  fi
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  say "importing $BASE"
  tar -C "$root" --exclude=./.complete-with-headers -c . | docker import --change 'CMD ["python3"]' \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DEFAULT_TIMEOUT=60' - "$BASE" > /dev/null
}

wheels_image() { # a base with a directory of wheels, for a Dockerfile.trainer with a torch without CUDA
  [ -n "${RATCHET_LAB_WHEELS:-}" ] || return 0
  docker image inspect "$BASE-wheels" > /dev/null 2>&1 && return
  say "adding the wheels of $RATCHET_LAB_WHEELS to $BASE-wheels"
  docker build -q -t "$BASE-wheels" -f - "$RATCHET_LAB_WHEELS" > /dev/null << DOCKERFILE
FROM $BASE
COPY *.whl /wheels/
ENV PIP_FIND_LINKS=/wheels
DOCKERFILE
}

redis_image() {
  docker image inspect "$REDIS" > /dev/null 2>&1 && return
  say "building $REDIS"
  docker build -q -t "$REDIS" -f - "$LAB/empty" > /dev/null << DOCKERFILE
FROM $BASE
RUN apt-get update && apt-get install -y --no-install-recommends redis-server redis-tools && rm -rf /var/lib/apt/lists/*
RUN usermod -u 999 redis && groupmod -g 999 redis && install -d -o redis -g redis /data
WORKDIR /data
VOLUME /data
USER redis
CMD ["redis-server","--bind","0.0.0.0","--protected-mode","no"]
DOCKERFILE
}

up() {
  [ "$(id -u)" = 0 ] || { say "needs root"; return 1; }
  for tool in dockerd debootstrap iptables ip docker; do
    command -v "$tool" > /dev/null || { say "$tool is not on PATH"; return 1; }
  done
  mkdir -p "$LAB/empty"
  plugins; engine; base_image; redis_image; wheels_image
  say "ready"
}

down() {
  local pid
  if [ -e "$S/pid" ]; then
    docker ps -aq | xargs -r docker rm -fv > /dev/null 2>&1 || true
    docker network ls -q --filter type=custom | xargs -r docker network rm > /dev/null 2>&1 || true
    pid=$(cat "$S/pid")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 150); do [ -e "/proc/$pid" ] || break; sleep .2; done # containerd ends with it
  fi
  [ -e "$S/ip_forward.before" ] || { rm -rf "$S"; return; }
  ip link del docker0 2> /dev/null || true
  local table chain rule
  for table in filter nat; do
    for chain in FORWARD PREROUTING OUTPUT POSTROUTING; do
      { iptables -t $table -S $chain 2> /dev/null || true; } |
        { grep -E 'DOCKER|docker0|br-[0-9a-f]{12}|172\.(1[6-9]|2[0-9]|3[01])\.' || true; } | sed 's/^-A/-D/' |
        while read -r rule; do eval "iptables -t $table $rule"; done
    done
    for flag in F X; do
      for chain in $(iptables -t $table -S | awk '/^-N DOCKER/{print $2}'); do iptables -t $table -$flag "$chain"; done
    done
  done
  iptables -P FORWARD "$(cat "$S/forward_policy.before")"
  sysctl -qw "net.ipv4.ip_forward=$(cat "$S/ip_forward.before")"
  rm -rf "$S" # minutes, on a busy disk with a trainer image
}

check() {
  local left
  left=$(
    pgrep -af -- "$S/d.sock|$S/exec" | grep -v "lab.sh" || true
    awk -v lab="$LAB/" 'index($2, lab) == 1 {print "mount " $2}' /proc/mounts
    ip -o link | grep -oE '(docker0|br-[0-9a-f]{12}|veth[0-9a-f]+)[:@]' || true
    { iptables -S; iptables -t nat -S; } 2> /dev/null | grep DOCKER || true
    [ ! -e "$S" ] || echo "directory $S"
  )
  [ -z "$left" ] || { echo "$left"; return 1; }
}

case $command in
  up) up ;;
  env) echo "export DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG" ;;
  down) down ;;
  check) check ;;
  *) say "unknown command $command"; exit 2 ;;
esac
