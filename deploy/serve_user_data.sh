#!/bin/bash
# Serves one model on this instance with the image SageMaker would run, and reports its health to S3. An instance that never
# becomes healthy ends itself; one that was is kept so. deploy/ec2_serving.py puts a quoted word in place of each name between at signs.
set -Eeuo pipefail
RELEASE=@RELEASE@ IMAGE=@IMAGE@ REGION=@REGION@ LOG_GROUP=@LOG_GROUP@ GPUS=@GPUS@ PORT=@PORT@ START_MINUTES=@START_MINUTES@
MODEL_URI=@MODEL_URI@ RUN_URI=@RUN_URI@ ENVIRONMENT=@ENVIRONMENT@
ROOT=${ROOT:-} # tests run below a directory of their own
LOG=$ROOT/var/log/kennel-serve.log
WORK=$ROOT/run/kennel
SERVED=$ROOT/var/lib/kennel/served # there from its first healthy answer on
AT_BOOT=$ROOT/var/lib/cloud/scripts/per-boot/kennel-serve
INSTANCE=unknown ADDRESS=unknown STATE=starting
[ ! -e "$SERVED" ] || STATE=rebooted
# else the AWS CLI asks for its credentials once, and waits a second
export AWS_DEFAULT_REGION=$REGION AWS_METADATA_SERVICE_TIMEOUT=5 AWS_METADATA_SERVICE_NUM_ATTEMPTS=5
mkdir -p "$WORK" "${LOG%/*}"
exec >>"$LOG" 2>&1 # all of it is brought to the bucket: what Docker says before there is a container, too

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*"; }
copy() { aws s3 cp --only-show-errors "$@"; }

# 1. A dead man's switch until it serves: the instance's shutdown behaviour turns it into its end. A reboot forgets the timer, and
# cloud-init runs user data once: from here on this script is run at every boot
[ "$STATE" = rebooted ] || shutdown -h "+$((START_MINUTES + 10))" || say 'no shutdown timer could be set'
[ -e "$AT_BOOT" ] || install -D -m 755 "$0" "$AT_BOOT"

# 2. What deploy reads; and the end of an instance that never served: its log, then the status, then itself
report() {
  STATE=$1
  say "$STATE: ${2:-}"
  printf '{"release":"%s","instance":"%s","address":"%s","port":%s,"state":"%s","reason":"%s","at":"%s"}\n' \
    "$RELEASE" "$INSTANCE" "$ADDRESS" "$PORT" "$STATE" "${2:-}" "$(date -u +%FT%TZ)" >"$WORK/status.json"
  copy "$WORK/status.json" "$RUN_URI/status.json"
}
WHY='the start-up script ended early'
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  local code=$?
  trap - EXIT
  set +e
  [ "$STATE" = starting ] || exit "$code" # it has served: the container goes on, and restarts by itself
  docker logs --tail 100 serve 2>&1
  copy "$LOG" "$RUN_URI/instance.log"
  report failed "$WHY"
  shutdown -h now
  exit "$code"
}
trap finish EXIT
fail() { WHY=$2; exit "$1"; }

# 3. Who am I: IMDSv2 only
imds() {
  local token
  token=$(curl -fsS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) &&
    curl -fsS -m 5 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"
}
INSTANCE=$(imds instance-id)
ADDRESS=$(imds local-ipv4)

# 4. Kept healthy: three missed answers are a restart. A container that was started again, by this, by Docker or by a reboot, has
# the minutes of a first start before it is restarted. The state is reported when it changes, and every five minutes
healthy() { curl -fsS -m 5 -o /dev/null "http://127.0.0.1:$PORT/ping"; }
life() { docker inspect -f '{{.State.StartedAt}}' serve 2>/dev/null || echo unknown; }
watch() { # $1: the life of the container that has answered; none after a reboot
  local answered=$1 now last='' missed=0 waited=0 turn=0 patience
  while sleep "${WATCH:-10}"; do
    turn=$((turn + 1))
    if healthy; then
      missed=0 waited=0 answered=$(life)
      [ "$STATE" = healthy ] && [ $((turn % 30)) != 0 ] || report healthy || say 'could not report'
      continue
    fi
    now=$(life)
    [ "$now" = "$last" ] || waited=0
    last=$now missed=$((missed + 1)) waited=$((waited + 1)) patience=3
    [ "$now" = "$answered" ] || patience=$((START_MINUTES * 6)) # turns of ten seconds
    if [ "$waited" -ge "$patience" ]; then
      missed=3 waited=0
      report unhealthy 'no answer, restarting the container' || say 'could not report'
      docker restart -t 30 serve || say 'could not restart the container'
    elif [ "$missed" = 3 ] || { [ "$missed" -gt 3 ] && [ $((turn % 30)) = 0 ]; }; then
      report unhealthy 'no answer, the container started again and has its time' || say 'could not report'
    fi
  done
}
# Cloud-init does not wait for Docker, which starts the container again after a reboot; one that has served is never ended here
systemctl start docker || say 'Docker could not be started'
if [ "$STATE" = rebooted ]; then
  watch none
  exit
fi

# 5. A GPU and a driver, before gigabytes are pulled
[ "$GPUS" = none ] || nvidia-smi -L || fail 66 'no GPU, or no driver on this machine image'

# 6. A reboot before the first healthy answer may have come after this
if ! docker inspect serve >/dev/null 2>&1; then
  MODEL=$ROOT/opt/ml/model
  mkdir -p "$MODEL"
  copy "$MODEL_URI" - | tar -xzf - --no-same-owner -C "$MODEL" || fail 67 'the model could not be fetched'
  chmod -R a+rX "$ROOT/opt/ml"
  printf '%s' "$ENVIRONMENT" >"$WORK/environment"
  # the password never stands on a command line
  aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE%%/*}" || fail 68 'no login to the registry'
  docker pull -q "$IMAGE" || fail 69 'the image could not be pulled'
  gpus=()
  [ "$GPUS" = none ] || gpus=(--gpus "$GPUS")
  # One hop to the metadata service keeps the container off this instance's role
  docker run -d --name serve --restart unless-stopped --stop-timeout 30 "${gpus[@]}" --user 10001:10001 --read-only \
    --tmpfs /tmp --shm-size 1g --cap-drop ALL --security-opt no-new-privileges -p "$PORT:8080" \
    -v "$MODEL:/opt/ml/model:ro" --env-file "$WORK/environment" -e SERVE_PORT=8080 \
    --log-driver awslogs --log-opt "awslogs-region=$REGION" --log-opt "awslogs-group=$LOG_GROUP" --log-opt "awslogs-stream=$RELEASE/$INSTANCE" "$IMAGE" serve ||
    fail 70 'the container could not be started'
fi

# 7. Healthy means that /ping answers 200: the server does so once its model gave the golden photo's probabilities
deadline=$((START_MINUTES * ${MINUTE:-60})) # SECONDS counts from this script's start
until healthy; do
  [ "$SECONDS" -lt "$deadline" ] || fail 71 "no healthy answer within $START_MINUTES minutes"
  [ "$(docker inspect -f '{{.RestartCount}}' serve)" -lt 3 ] || fail 72 'the server ended three times'
  sleep "${POLL:-5}"
done
install -D /dev/null "$SERVED"
shutdown -c || say 'the shutdown timer could not be taken back'
report healthy || say 'could not report'
watch "$(life)"
