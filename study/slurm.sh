
set -u
AGAIN="" ENDING="" CHILD=""

# SLURM sends USR1 before the time is over (`--signal` above). The study then stops in order: its
# trials write checkpoints. TERM comes with `scancel`, and where another job takes the nodes.
trap 'AGAIN=yes; [[ $CHILD ]] && kill -USR1 "$CHILD"' USR1
trap 'ENDING=yes; [[ $CHILD ]] && kill -TERM "$CHILD"' TERM

# Where Ray's first node listens. Jobs may share a node, so the port follows from the job's number;
# where somebody listens there already, another is taken. Ray finds free ones for all the rest.
IP=$(getent ahostsv4 "$(hostname)" | awk '$1 !~ /^127\./ {print $1; exit}')
IP=${IP:-$(hostname -I | awk '{print $1}')}
PORT=$((20000 + SLURM_JOB_ID * 4 % 12000))
while (: <"/dev/tcp/$IP/$PORT") 2>/dev/null; do PORT=$((PORT + 4)); done
ADDRESS=$IP:$PORT

# Whoever does not know the token cannot use this Ray, whatever node and port he finds.
RAY_AUTH_TOKEN=$(od -An -v -N 32 -t x1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # its nodes end after the study: nothing to wait for
unset RAY_ADDRESS
unset "${!SLURM_MEM_PER_@}" # srun takes one way of asking for memory, and gets `--mem=0` below

# A node of Ray, until it is told to end. Its folder has a short path, as sockets lie in it, and goes
# with it.
ray_node() {
    local folder where ray status
    folder=$(mktemp -d "/tmp/sdw-$SLURM_JOB_ID-XXXX") || exit
    if ((SLURM_PROCID == 0)); then
        where=(--head --node-ip-address="$IP" --port="$PORT")
        where+=(--include-dashboard=false --ray-client-server-port=$((PORT + 1)))
    else
        until (: <"/dev/tcp/$IP/$PORT") 2>/dev/null; do sleep 1; done
        where=(--address="$IP:$PORT")
    fi
    "$PYTHON" -P -m ray.scripts.scripts start --block "${where[@]}" --temp-dir="$folder" --num-cpus="$SLURM_CPUS_ON_NODE" \
        --object-store-memory=100000000 --dashboard-agent-listen-port=0 --min-worker-port=0 \
        --max-worker-port=0 --disable-usage-stats --log-color=false &
    ray=$!
    trap 'kill "$ray"' TERM
    wait "$ray"
    wait "$ray" # the first ended with the signal
    status=$?
    rm -rf "$folder"
    ((SLURM_PROCID == 0)) && exit "$status" # without the head there is no Ray
}
export -f ray_node
export PYTHON IP PORT

# A command whose end is waited for, and which hears of signals meanwhile.
run() {
    local status
    [[ $AGAIN$ENDING ]] && return 1
    "$@" &
    CHILD=$!
    wait "$CHILD"
    status=$?
    while kill -0 "$CHILD" 2>/dev/null; do
        wait "$CHILD"
        status=$?
    done
    CHILD=""
    return "$status"
}

RAY_LOG=$STUDY/slurm-$SLURM_JOB_ID-ray.log
echo "sdw: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, Ray at $ADDRESS"
srun --export=ALL --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --overlap --mem=0 \
    --cpu-bind=none --mpi=none --wait=0 --kill-on-bad-exit=1 --open-mode=append \
    --output="$RAY_LOG" bash -c ray_node 2>>"$RAY_LOG" &
RAY=$!
run "$PYTHON" -P -m study.job "$ADDRESS" "$SLURM_JOB_NUM_NODES" "$RAY" &&
    run "$PYTHON" -P -m study.cli resume "$STUDY" --address "$ADDRESS"
STATUS=$?

# The nodes of Ray end by a signal to the job's steps, which this script is none of.
scancel --signal=TERM "$SLURM_JOB_ID"
for _ in {1..60}; do
    kill -0 "$RAY" 2>/dev/null || break
    sleep 0.5
done
kill -TERM "$RAY" 2>/dev/null
wait "$RAY"

# The same job, in the queue again: with its number, this script, and what the study's folder holds.
finished() { "$PYTHON" -P -m study.cli status "$STUDY" --json | grep -q '"state": "finished"'; }
if [[ $AGAIN ]] && { ((STATUS)) || ! finished; }; then
    echo "sdw: the time of job $SLURM_JOB_ID is over, and it queues again"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
# A job whose nodes another job takes is put back into the queue by SLURM, unless it ends before.
[[ $ENDING ]] && sleep 600
exit "$STATUS"
