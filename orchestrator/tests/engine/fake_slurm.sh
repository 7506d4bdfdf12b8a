#!/bin/sh
# Slurm's commands for a test, under four names, one folder of state beside them. A job is a process group.
# What can be asked for: the file `lose-answer` (the next sbatch submits and fails), `refuse` (sbatch refuses), `down` (nothing
# answers), `hold` (jobs stay in the queue), and the fifth command `fake-node-failure JOB`, which kills a job and begins it again.
here=$(dirname "$0")
state="$here/state"
mkdir -p "$state"
command=$(basename "$0")

die() { echo "$command: error: $*" >&2; exit 1; }
[ -e "$here/down" ] && die "Unable to contact slurm controller (connect failure)"

started() { # folder: waits until it may run, then runs the script, then notes how it ended
    touch "$1/watched"
    setsid sh -c '
        dir=$1
        while [ -e "$2/hold" ] && [ ! -e "$dir/over" ]; do sleep 0.05; done
        # At most one job of a name at a time.
        while :; do
            first=$(grep -lxF "$(cat "$dir/name")" "$2"/state/*/name | while read -r f; do d=${f%/name}; [ -e "$d/over" ] || basename "$d"; done | sort -n | head -n 1)
            { [ "$first" = "$(basename "$dir")" ] || [ -z "$first" ]; } && break
            sleep 0.05
        done
        [ -e "$dir/over" ] && exit
        SLURM_JOB_ID=$(basename "$dir") sh "$dir/script" >>"$dir/out" 2>&1 & pid=$!
        echo $pid >"$dir/pid.new"; mv "$dir/pid.new" "$dir/pid"
        echo RUNNING >"$dir/state.new"; mv "$dir/state.new" "$dir/state"
        wait $pid; code=$?
        [ -e "$dir/requeued" ] && { rm "$dir/watched"; exit; }
        [ -e "$dir/over" ] || { if [ $code = 0 ]; then echo COMPLETED; else echo FAILED; fi >"$dir/over.new"; mv "$dir/over.new" "$dir/over"; }
    ' fake "$1" "$here" </dev/null >/dev/null 2>&1 &
}

alive() { pid=$(cat "$1/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; }

case "$command" in
sbatch)
    [ -e "$here/refuse" ] && die "Batch job submission failed: Invalid partition name specified"
    name=
    for arg in "$@"; do
        case "$arg" in
        --job-name=*) name=${arg#--job-name=} ;;
        --export=NIL) sealed=yes ;;
        esac
    done
    [ "$sealed" = yes ] || die "the test wants --export=NIL"
    printf '%s\n' "$@" >>"$here/args.log"
    id=1
    while ! mkdir "$state/$id" 2>/dev/null; do id=$((id + 1)); done
    cat >"$state/$id/script"
    echo PENDING >"$state/$id/state"
    echo "$name" >"$state/$id/name"
    echo "$name" >>"$here/submitted.log"
    started "$state/$id"
    if [ -e "$here/lose-answer" ]; then rm "$here/lose-answer"; die "Batch job submission failed: Socket timed out on send/recv operation"; fi
    echo "$id"
    ;;
squeue)
    for dir in "$state"/*/; do
        dir=${dir%/}
        [ -e "$dir/name" ] || continue
        shown=$(cat "$dir/over" 2>/dev/null || cat "$dir/state")
        echo "$(basename "$dir")|$shown|None|$(cat "$dir/name")"
    done
    ;;
scancel)
    signal= id=
    for arg in "$@"; do
        case "$arg" in --signal=*) signal=${arg#--signal=} ;; --*) ;; *) id=$arg ;; esac
    done
    dir="$state/$id"
    echo "$signal $id" >>"$here/scancel.log"
    [ -d "$dir" ] || die "Invalid job id $id"
    if [ -n "$signal" ]; then
        alive "$dir" && kill "-$signal" "$(cat "$dir/pid")"
    else
        [ -e "$dir/over" ] || echo CANCELLED >"$dir/over"
        alive "$dir" && kill "$(cat "$dir/pid")"
    fi
    exit 0
    ;;
sacct) die "Slurm accounting storage is disabled" ;;
fake-node-failure)
    dir="$state/$1"
    touch "$dir/requeued"
    kill -KILL "$(cat "$dir/pid")"
    while [ -e "$dir/watched" ]; do sleep 0.02; done
    rm -f "$dir/requeued" "$dir/pid"
    echo PENDING >"$dir/state"
    started "$dir"
    ;;
esac
