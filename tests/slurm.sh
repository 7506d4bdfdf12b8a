#!/usr/bin/env bash
# `executor: slurm` against a real Slurm: munged, slurmctld and slurmd of this machine, in a folder of their own. A training runs as a job;
# its orchestrator is killed and the next one takes the job up; a stopped run cancels its job; a preempted job begins again from its
# checkpoint. Needs root; installs slurmctld, slurmd, slurm-client and munge (Debian) where they are missing; says what it skips.
#
#     tests/slurm.sh [path of the sprint-flow binary]
set -euo pipefail
cd "$(dirname "$0")/.."
flow="$(realpath "${1:-${CARGO_TARGET_DIR:-$HOME/.cache/sprint-flow/target}/release/sprint-flow}")"
[ "$(id -u)" = 0 ] || { echo "SKIPPED: Slurm's daemons need root"; exit 0; }
export PATH="$PATH:/usr/sbin"
have() { command -v slurmctld slurmd munged sbatch squeue scancel > /dev/null; }
if ! have; then
    echo "== installing Slurm"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge; } \
        > /dev/null 2>&1 || true
    have || { echo "SKIPPED: no Slurm (apt-get install slurmctld slurmd slurm-client munge)"; exit 0; }
fi

work="$(mktemp -d)"
host="$(hostname -s)"
end() { [ -f "$1" ] && kill "$(cat "$1")" 2> /dev/null || true; }
run=
cleanup() {
    [ -z "$run" ] || kill "$run" 2> /dev/null || true
    scancel --me 2> /dev/null || true
    sleep 1
    end "$work/slurmd.pid"; end "$work/slurmctld.pid"; sleep 1; end "$work/munge/pid"
    rm -rf "$work"
}
trap cleanup EXIT
failed() { echo "FAILED: $*"; tail -n 20 "$work"/*.err 2> /dev/null; squeue --states=all 2> /dev/null; exit 1; }

mkdir -m 700 "$work/munge"; mkdir "$work/state" "$work/spool"
dd if=/dev/urandom of="$work/munge/key" bs=128 count=1 2> /dev/null; chmod 400 "$work/munge/key"
munged --force --key-file="$work/munge/key" --socket="$work/munge/socket" --pid-file="$work/munge/pid" --log-file="$work/munge/log" \
    --seed-file="$work/munge/seed" 2> /dev/null || failed "munged does not start"
cat > "$work/slurm.conf" <<C
ClusterName=sprintflow
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
SlurmctldPort=16917
SlurmdPort=16918
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=OFF
C
echo "CgroupPlugin=cgroup/v1" > "$work/cgroup.conf"
export SLURM_CONF="$work/slurm.conf"
slurmctld && slurmd || { echo "SKIPPED: Slurm's daemons do not start here"; exit 0; }
for _ in $(seq 30); do sinfo -h -o %t 2> /dev/null | grep -q idle && break; sleep 1; done
sinfo -h -o %t | grep -q idle || { tail "$work"/slurm*.log; failed "the node is not idle"; }

python3 - "$work" <<'P'
import os, sys
text = open("workflows/quickstart.yaml").read().replace("file:quickstart", "file:" + os.path.abspath("workflows/quickstart"))
text = text.replace("../configs/train", os.path.abspath("configs/train"))
head = text[:text.index("  # Three roles")]
placed = head.replace("    kind: finetune@1\n", "    kind: finetune@1\n    executor: {slurm: {partition: low, time: 30m}}\n    checkpoint: {every: 1s}\n")
assert placed != head
open(sys.argv[1] + "/w.yaml", "w").write(placed)
P
export HF_TOKEN="hf_canary_$$_2718281828"
begin() { # NAME EPSILON: a run in the background, and its training under way
    "$flow" run "$work/w.yaml" --store "$work/store" --set "epsilon=[\"$2\"]" --json > "$work/$1.json" 2> "$work/$1.err" &
    run=$!
    for _ in $(seq 180); do
        grep -q '"event":"stage_progress","stage":"finetune' "$work/$1.json" && return
        kill -0 "$run" 2> /dev/null || failed "run $1 has ended: $(tail -n 1 "$work/$1.json")"
        sleep 0.5
    done
    failed "the training of run $1 does not begin"
}
last() { tail -n 1 "$work/$1.json"; }
jobs() { squeue --me --states=all --noheader --format='%A|%T|%j' | grep -- '-finetune-' | tail -n +"${1:-1}"; }
newest() { jobs | sort -t'|' -n | tail -n 1; }

echo "== the orchestrator is killed, the job is taken up"
begin killed 8
job="$(newest | cut -d'|' -f1)"
scontrol show job "$job" | grep -q "$HF_TOKEN" && failed "the token is in scontrol's answer"
scontrol write batch_script "$job" - | grep -q "$HF_TOKEN" && failed "the token is in the script"
grep -rqF "$HF_TOKEN" "$work/state" "$work/spool" && failed "the token is in Slurm's state"
kill -KILL "$run"; wait "$run" 2> /dev/null || true
sleep 2
[ "$(squeue --noheader --format=%T -j "$job")" = RUNNING ] || failed "the job died with its orchestrator"
"$flow" run "$work/w.yaml" --store "$work/store" --set 'epsilon=["8"]' --json > "$work/again.json" 2> "$work/again.err" || failed "$(last again)"
grep -q '"status":"succeeded"' "$work/again.json" || failed "$(last again)"
grep -q '"event":"stage_started","stage":"finetune\[epsilon=8\]".*"attempt":1' "$work/again.json" || failed "it is another attempt"
[ "$(jobs | wc -l)" = 1 ] || failed "one attempt, $(jobs | wc -l) jobs"
echo "   one job, one attempt, $(last again | grep -o '"stages":{[^}]*}')"
grep -rqF "$HF_TOKEN" "$work/store" && failed "the token is left in the store"

echo "== a stopped run cancels its job"
begin stopped 7
job="$(newest | cut -d'|' -f1)"
kill -INT "$run"
code=0; wait "$run" || code=$?
[ "$code" = 130 ] || failed "exit code $code, not 130"
for _ in $(seq 20); do squeue --me --noheader | grep -q . || break; sleep 1; done
squeue --me --noheader | grep -q . && failed "a job is left"
echo "   job $job: $(newest | cut -d'|' -f2)"

echo "== a preempted job begins again from its checkpoint"
begin preempted 7
job="$(newest | cut -d'|' -f1)"
sbatch --parsable --export=NIL --partition=high --cpus-per-task="$(nproc)" --output=/dev/null --wrap 'sleep 3' > /dev/null
for _ in $(seq 60); do [ "$(squeue --noheader --format=%T -j "$job")" = PENDING ] && break; sleep 0.5; done
[ "$(squeue --noheader --format=%T -j "$job")" = PENDING ] || failed "the job was not preempted and requeued"
# Slurm lets a requeued job wait for a minute or two.
scontrol update JobId="$job" StartTime=now
wait "$run" || failed "$(last preempted)"
grep -q 'runs again on' "$work/preempted.json" || failed "the run does not say that its job began again"
echo "   $(last preempted | grep -o '"stages":{[^}]*}')"

echo "== a job that loses its node begins again"
begin lost 6
job="$(newest | cut -d'|' -f1)"
scontrol update NodeName="$host" State=DOWN Reason=test
for _ in $(seq 60); do [ "$(squeue --noheader --format=%T -j "$job")" = PENDING ] && break; sleep 0.5; done
[ "$(squeue --noheader --format=%T -j "$job")" = PENDING ] || failed "the job was not requeued"
# A node that is back before it has let the old copy go refuses the new one, and Slurm holds the job.
for _ in $(seq 60); do grep -qF "[$job.batch] done with job" "$work/slurmd.log" && break; sleep 0.5; done
# It may have come back by itself.
scontrol update NodeName="$host" State=RESUME 2> /dev/null || true
scontrol update JobId="$job" StartTime=now
wait "$run" || failed "$(last lost)"
grep -q 'runs again on' "$work/lost.json" || failed "the run does not say that its job began again"
echo "   $(last lost | grep -o '"stages":{[^}]*}')"
echo "== done"
