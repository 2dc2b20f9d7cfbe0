#!/bin/bash
# Runs one training container on this instance as SageMaker would, brings the results to S3 and ends the instance.
# deploy/ec2_request.py puts a quoted word in place of each name between at signs.
set -Eeuo pipefail
RUN=@RUN@ IMAGE=@IMAGE@ REGION=@REGION@ LOG_GROUP=@LOG_GROUP@ NODES=@NODES@ MAX_MINUTES=@MAX_MINUTES@ GPUS=@GPUS@
DATA_URI=@DATA_URI@ RUN_URI=@RUN_URI@ MODEL_URI=@MODEL_URI@ CHECKPOINT_URI=@CHECKPOINT_URI@
ROOT=${ROOT:-} # tests run below a directory of their own
LOG=$ROOT/var/log/kennel-train.log
WORK=$ROOT/run/kennel
HOST=unknown INSTANCE=unknown
# else the AWS CLI asks for its credentials once, and waits a second
export AWS_DEFAULT_REGION=$REGION AWS_METADATA_SERVICE_TIMEOUT=5 AWS_METADATA_SERVICE_NUM_ATTEMPTS=5
mkdir -p "$WORK" "${LOG%/*}"
exec >>"$LOG" 2>&1 # all of it is brought to the bucket: what Docker says before there is a container, too

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*"; }
copy() { aws s3 cp --only-show-errors "$@"; }
# rank 0, which writes model and checkpoints, is on the first host: what any other brought would be older
leads() { [ "$HOST" = algo-1 ]; }

# 1. A dead man's switch before anything can fail: the instance's shutdown behaviour turns it into its end
shutdown -h "+$MAX_MINUTES" || say 'no shutdown timer could be set'

# 2. However this script ends: results, log, then the status that says it has ended, then the instance itself
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
  local code=$?
  trap - EXIT
  set +e
  local why=''
  [ -f "$WORK/interrupted" ] && why=$(cat "$WORK/interrupted")
  say "ended with exit code $code${why:+, interrupted: $why}"
  if leads && [ "$code" = 0 ] && [ -z "$why" ] && [ -f "$ML/model/manifest.json" ]; then
    tar -C "$ML/model" -czf "$WORK/model.tar.gz" . && copy "$WORK/model.tar.gz" "$MODEL_URI" || code=67
  fi
  [ -d "${ML:-/nonexistent}/output" ] && copy --recursive "$ML/output" "$RUN_URI/output/$HOST/"
  copy "$LOG" "$RUN_URI/output/$HOST/instance.log"
  printf '{"run":"%s","host":"%s","instance":"%s","exit_code":%s,"interrupted":"%s"}\n' \
    "$RUN" "$HOST" "$INSTANCE" "$code" "$why" >"$WORK/status.json"
  copy "$WORK/status.json" "$RUN_URI/status/$HOST.json"
  shutdown -h now
  exit "$code"
}
trap finish EXIT

# 3. Who am I: IMDSv2 only, a fresh token each time because a run may outlive one
imds() {
  local token
  token=$(curl -fsS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) &&
    curl -fsS -m 5 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"
}
INSTANCE=$(imds instance-id)
INDEX=$(imds ami-launch-index)
ADDRESS=$(imds local-ipv4)
HOST=algo-$((INDEX + 1))
[ "$INDEX" -lt "$NODES" ] || { say "launch index $INDEX of $NODES nodes"; exit 64; }

# 4. A GPU and a driver, before gigabytes are pulled
[ "$GPUS" = none ] || nvidia-smi -L || { say 'no GPU, or no driver on this machine image'; exit 66; }

# 5. Peers meet through the bucket: each publishes its address and waits for the others'
peers=()
if [ "$NODES" -gt 1 ]; then
  printf '%s' "$ADDRESS" | copy - "$RUN_URI/rendezvous/$HOST"
  for number in $(seq "$NODES"); do
    peer=''
    for _ in $(seq 90); do
      peer=$(copy "$RUN_URI/rendezvous/algo-$number" - 2>/dev/null) && [ -n "$peer" ] && break
      sleep "${POLL:-10}"
    done
    [ -n "$peer" ] || { say "algo-$number never came"; exit 65; }
    peers+=(--add-host "algo-$number:$peer")
  done
fi

# 6. What SageMaker lays out under /opt/ml, on the instance's own fast disk where the machine image mounts one: maybe just now,
# and what was written there before would be hidden
for _ in $(seq 60); do
  [ "$(systemctl is-active dlami-nvme)" = activating ] || break
  sleep "${POLL:-1}"
done
ML=$ROOT/opt/ml
mountpoint -q "$ROOT/opt/dlami/nvme" && ML=$ROOT/opt/dlami/nvme/ml
mkdir -p "$ML"/{input/config,input/data,model,output/data,checkpoints}
printf '%s' @HYPERPARAMETERS@ >"$ML/input/config/hyperparameters.json"
printf '%s' @CHANNELS@ >"$ML/input/config/inputdataconfig.json"
hosts=$(seq -f '"algo-%g"' -s , "$NODES")
interface=$(ip -o -4 addr show to "$ADDRESS" | awk 'NR == 1 {print $2}')
printf '{"current_host":"%s","hosts":[%s],"network_interface_name":"%s"}' "$HOST" "$hosts" "$interface" \
  >"$ML/input/config/resourceconfig.json"
aws s3 sync --only-show-errors "$DATA_URI" "$ML/input/data"
aws s3 sync --only-show-errors "$CHECKPOINT_URI" "$ML/checkpoints"
touch "$WORK/saved"
chown -R 10001:10001 "$ML"

# 7. The container has no business with this instance's role. One hop keeps bridged containers off the metadata service;
# with several nodes it shares the host's network, so its user is kept off
network=(--hostname "$HOST")
if [ "$NODES" -gt 1 ]; then
  network=(--network host "${peers[@]}")
  iptables -I OUTPUT -d 169.254.169.254 -m owner --uid-owner 10001 -j REJECT || { say 'metadata cannot be closed off'; exit 68; }
fi

# 8. The image, by digest; the password never stands on a command line. Cloud-init does not wait for Docker
systemctl start docker || say 'Docker could not be started'
aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE%%/*}"
docker pull -q "$IMAGE"

# 9. A spot notice (two minutes ahead) or a request to stop: the container is told, writes its checkpoint and ends
# One whose latest.json is no newer than what it brought, or saved before, has nothing to save
# One at a time: a copy on the way that training's end overtakes would delete what the last one brings
save() (
  leads || exit 0
  flock 9
  [ "$ML/checkpoints/latest.json" -nt "$WORK/saved" ] || exit 0
  touch "$WORK/saving"
  aws s3 sync --only-show-errors --delete "$ML/checkpoints" "$CHECKPOINT_URI" && mv "$WORK/saving" "$WORK/saved"
) 9>"$WORK/lock"
watch() {
  local why='' turn=0
  while sleep "${WATCH:-5}"; do
    imds spot/instance-action >/dev/null 2>&1 && why='spot notice'
    turn=$((turn + 1)) # the AWS CLI is slow to start: ask the bucket every third time
    [ $((turn % 3)) != 0 ] || { copy "$RUN_URI/stop" - >/dev/null 2>&1 && why='asked to stop'; }
    [ -n "$why" ] || continue
    printf '%s' "$why" >"$WORK/interrupted"
    say "$why"
    until docker stop -t 90 train; do sleep 1; done # it may not have started yet; the end of `docker run` ends this too
    return
  done
}
# and on the way, what a lost instance would otherwise take with it
keep() { while sleep "${KEEP:-60}"; do save || say 'checkpoints could not be copied'; done; }
watch &
watcher=$!
keep &
keeper=$!

# 10. Train
gpus=()
[ "$GPUS" = none ] || gpus=(--gpus "$GPUS")
code=0
docker run --rm --name train "${gpus[@]}" "${network[@]}" --user 10001:10001 --ipc host \
  --ulimit memlock=-1 --ulimit stack=67108864 --security-opt no-new-privileges -v "$ML:/opt/ml" -e "TRAINING_JOB_NAME=$RUN" \
  --log-driver awslogs --log-opt "awslogs-region=$REGION" --log-opt "awslogs-group=$LOG_GROUP" \
  --log-opt "awslogs-stream=$RUN/$HOST" "$IMAGE" train || code=$?
kill "$watcher" "$keeper" 2>/dev/null || true
save || say 'the last checkpoint could not be copied' # the model matters more
if [ -s "$ML/output/failure" ]; then say "$(head -c 1024 "$ML/output/failure")"; fi
exit "$code"
