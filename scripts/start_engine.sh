#!/usr/bin/env bash
# Start a Docker engine on a machine without a service manager (.ci/run calls this; the make commands never do). Root.
# Safe to call at any time. Pid files that a killed engine left behind would stop the next one ("containerd is still
# running"), so they are removed unless that very program runs under that pid.
set -euo pipefail
answers() { docker version --format '{{.Server.Version}}' 2>/dev/null; }
runs() { # PID PROGRAM
  [ -r "/proc/$1/stat" ] && [ "$(cat "/proc/$1/comm")" = "$2" ] && ! grep -q ') Z ' "/proc/$1/stat"
}
drop_stale() { # PIDFILE PROGRAM
  if [ -f "$1" ] && ! runs "$(cat "$1")" "$2"; then rm -f "$1"; fi
}
if version=$(answers); then
  echo "Docker engine $version is up already"
  exit 0
fi
drop_stale /var/run/docker.pid dockerd
drop_stale /var/run/docker/containerd/containerd.pid containerd
log=/var/log/dockerd.log
setsid nohup dockerd >>"$log" 2>&1 </dev/null &
for _ in $(seq 150); do
  if version=$(answers); then
    echo "Docker engine $version started"
    exit 0
  fi
  sleep 0.2
done
tail -n 20 "$log" >&2
echo "the Docker engine did not start (the end of $log is above)" >&2
exit 1
