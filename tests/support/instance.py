"""An EC2 instance in a directory: user data runs in real bash, with the programs it calls replaced by small stand-ins.

`aws s3` works on a directory, so what the script brings to the bucket can be looked at; `docker run` runs a shell snippet
that plays the container; `/ping` answers what `pings` says, one line each (`crashed`: nothing, and Docker has started the
container again); every call is noted in `calls`. Where `sleep` is a stand-in too, it succeeds NAPS times. Docker runs only once
`systemctl` has started it; DISK_AFTER is how often the instance's own disk is asked for before it is mounted.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.ec2_request import USER_DATA_LIMIT_BYTES
from tests.support.requirement import unavailable

PROGRAMS = ("aws", "docker", "curl", "shutdown", "nvidia-smi", "iptables", "ip", "chown", "systemctl", "mountpoint")
STAND_IN = r"""#!/bin/bash
name=$(basename "$0")
{ printf '%s' "$name"; printf ' %q' "$@"; echo; } >>"$T/calls"
path() { printf '%s' "$T/s3/${1#s3://}"; }
s3_cp() {
  local plain=()
  for word in "$@"; do [[ $word == --* ]] || plain+=("$word"); done
  local from=${plain[0]} to=${plain[1]}
  [[ $from == s3://* ]] && from=$(path "$from")
  [[ $to == s3://* ]] && to=$(path "$to")
  if [ "$from" = - ]; then mkdir -p "$(dirname "$to")"; cat >"$to"
  elif [ "$to" = - ]; then cat "$from" 2>/dev/null
  else mkdir -p "$(dirname "$to")"; cp -r "$from" "$to"; fi
}
s3_sync() {
  [ -z "${NO_SYNC_TO:-}" ] || [[ ${!#} != s3://*/$NO_SYNC_TO/* ]] || { echo "upload failed: SlowDown" >&2; return 1; }
  local plain=()
  for word in "$@"; do [[ $word == --* ]] || plain+=("$word"); done
  local from=${plain[0]} to=${plain[1]}
  [[ $from == s3://* ]] && from=$(path "$from")
  [[ $to == s3://* ]] && to=$(path "$to")
  mkdir -p "$to"
  [ -z "${SLOW_SYNC:-}" ] || sleep "$SLOW_SYNC"
  [ ! -d "$from" ] || cp -r "$from/." "$to/"
  [ -z "${SLOW_SYNC:-}" ] || echo synced >>"$T/calls"
}
docker_run() {
  PEERS=
  while [ $# -gt 0 ]; do
    [ "$1" = -v ] && ML=${2%%:*}
    [ "$1" = --add-host ] && PEERS="$PEERS $2"
    shift
  done
  export ML PEERS
  touch "$T/running" "$T/container" "$T/lives"
  bash -c "$CONTAINER"
}
case "$name" in docker)
  [ -e "$T/docker-runs" ] || { echo "Cannot connect to the Docker daemon. Is the docker daemon running?" >&2; exit 1; } ;;
esac
case "$name $1 ${2:-}" in
  "systemctl start docker") touch "$T/docker-runs" ;;
  "systemctl is-active dlami-nvme") echo >>"$T/asked"
    [ -n "${DISK_AFTER:-}" ] && [ "$(wc -l <"$T/asked")" -le "$DISK_AFTER" ] && echo activating && exit 3
    [ -z "${DISK_AFTER:-}" ] || touch "$T/mounted" ;;
  "mountpoint -q "*) [ -e "$T/mounted" ] ;;
  "aws s3 cp") shift 2; s3_cp "$@" ;;
  "aws s3 sync") shift 2; s3_sync "$@" ;;
  "aws ecr "*) echo secret-password ;;
  "docker login "*) cat >"$T/password" ;;
  "docker pull "*) [ -z "${NO_IMAGE:-}" ] || { echo "pull: no such image" >&2; exit 1; } ;;
  "docker run "*) docker_run "$@" ;;
  "docker inspect "*) [ -e "$T/container" ] || exit 1
    case "$*" in *StartedAt*) echo "life $(wc -l <"$T/lives")" ;; *) echo "${RESTARTS:-0}" ;; esac ;;
  "docker restart "*) echo >>"$T/lives" ;;
  "docker logs "*) echo "the container's last words" ;;
  "sleep "*) echo >>"$T/naps"; [ "$(wc -l <"$T/naps")" -le "${NAPS:-0}" ] ;;
  "docker stop "*) [ -e "$T/running" ] && touch "$T/stopped" ;;
  "curl "*) case "$*" in
      *api/token*) echo token ;;
      *instance-id*) echo i-0123456789 ;;
      *ami-launch-index*) echo "${INDEX:-0}" ;;
      *local-ipv4*) echo "${ADDRESS:-10.0.0.$((10 + ${INDEX:-0}))}" ;;
      *spot/instance-action*) [ -n "${SPOT:-}" ] && [ -e "$T/running" ] ;;
      */ping) answer=$(head -n 1 "$T/pings" 2>/dev/null); sed -i 1d "$T/pings" 2>/dev/null
        [ "$answer" != crashed ] || echo >>"$T/lives"
        [ "$answer" = 200 ] ;;
      *) exit 22 ;;
    esac ;;
  "ip "*) echo "2: ${INTERFACE:-ens5}    inet 10.0.0.10/20 brd 10.0.15.255 scope global" ;;
  "nvidia-smi "*) [ -z "${NO_GPU:-}" ] ;;
esac
"""
WRITE_CHECKPOINT = 'echo state >"$ML/checkpoints/c"; echo "{}" >"$ML/checkpoints/latest.json"'
WRITE_MODEL = 'echo weights >"$ML/model/w"; echo "{}" >"$ML/model/manifest.json"'
SUCCEED = f"{WRITE_MODEL}; {WRITE_CHECKPOINT}"
FAIL = 'echo "NonFiniteLoss: the loss became NaN" >"$ML/output/failure"; exit 3'
UNTIL_STOPPED = f'for _ in $(seq 600); do [ -e "$T/stopped" ] && {{ {WRITE_CHECKPOINT}; exit 0; }}; sleep 0.1; done; exit 9'


@dataclass
class Instance:
    """`root` holds the instance's file system, `bucket` what lies in S3."""

    root: Path
    bucket: Path
    exit_code: int
    output: str
    calls: list[str]

    def call(self, start: str) -> str:
        return next(line for line in self.calls if line.startswith(start))

    def called(self, start: str) -> bool:
        return any(line.startswith(start) for line in self.calls)


def write_programs(folder: Path, names: Iterable[str]) -> Path:
    """The directory that has to lead PATH."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in names:
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    return programs


def boot(
    folder: Path,
    script: str,
    *,
    container: str = SUCCEED,
    before: dict[str, str | bytes] | None = None,
    programs: Iterable[str] = PROGRAMS,
    log: str = "kennel-train.log",
    **environment: str,
) -> Instance:
    """Run `script` to its end. `before` is what lies in S3: bucket/key → content. `environment` steers the stand-ins."""
    programs = write_programs(folder, programs)
    for key, content in (before or {}).items():
        (folder / "s3" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "s3" / key).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "user_data").write_text(script)
    quick = {"POLL": "0.05", "WATCH": "0.1", "KEEP": "0.2", "CONTAINER": container}
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "T": str(folder), "ROOT": str(folder / "root")}
    done = subprocess.run(
        ["bash", str(folder / "user_data")], env=quick | paths | environment, capture_output=True, text=True, timeout=240
    )
    calls = (folder / "calls").read_text().splitlines()
    text = (folder / "root/var/log" / log).read_text()
    return Instance(folder / "root", folder / "s3", done.returncode, text + done.stdout + done.stderr, calls)


def check_script(text: str) -> None:
    """User data that EC2 takes, with every placeholder filled in, in bash that shellcheck finds nothing in."""
    assert len(text.encode()) < USER_DATA_LIMIT_BYTES
    assert re.search("@[A-Z_]+@", text) is None
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    checker = shutil.which("shellcheck") or unavailable("shellcheck is not installed")
    found = subprocess.run([checker, "-S", "style", "-"], input=text, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
