#!/usr/bin/env bash
# Starts several processes of one run on this machine; see --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local_processes.sh N [--devices=D] -- ARGS

Starts N processes of `python -m borrow_det.main ARGS`, which together make one run. With
--devices, each has D simulated CPU devices; otherwise it uses the devices that JAX finds.
Output of process 0 is printed unchanged, that of the others with their number in front.
SIGTERM and Ctrl-C are passed on to all processes.

Environment: PYTHON is the interpreter (default: python3). PEER_SECONDS (default: 150) is
the time that the other processes get to exit after one has failed, before they are
killed.

Exit status: 0 if all are done; 75 if all saved a checkpoint; otherwise that of the
process that failed first, since its failure ends the others; 2 for wrong arguments.
TEXT
}
die() {
  echo "local_processes.sh: $*" >&2
  exit 2
}

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
  die "bash $BASH_VERSION is too old: 5.1 is needed"
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || die "'${1:-}' is not a number of processes; see --help"
count=$1
shift
if [[ ${1:-} == --devices=* ]]; then
  devices=${1#*=}
  [[ $devices =~ ^[1-9][0-9]*$ ]] || die "--devices=$devices is not a number of devices"
  flag=--xla_force_host_platform_device_count=$devices
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$flag"
  shift
fi
[[ ${1:-} == -- && $# -gt 1 ]] || die "give the arguments of borrow_det.main after --; see --help"
shift

# Ports below the range of outgoing connections.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    if ! (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# With job control each child has a separate process group. Ctrl-C then reaches only this
# script, which passes it on once. Without job control, children would ignore SIGINT.
set -m
declare -A running=() # process id: process number
filters=() watchdog=''
# shellcheck disable=SC2317,SC2329  # Called by the traps.
send() { # SIGNAL
  local pid
  for pid in "${!running[@]}"; do kill "-$1" -- "-$pid" 2>/dev/null || :; done
}
trap 'send KILL; [[ -z $watchdog ]] || kill -KILL -- "-$watchdog" 2>/dev/null || :' EXIT
trap 'send TERM' TERM HUP
trap 'send INT' INT

port=$(free_port)
for ((i = 0; i < count; i++)); do
  command=("${PYTHON:-python3}" -m borrow_det.main "--coordinator_address=localhost:$port"
    "--num_processes=$count" "--process_id=$i" "$@")
  if ((i == 0)); then
    "${command[@]}" &
    running[$!]=$i
  else
    # A process substitution instead of a pipe, so that $! is the process of the run.
    exec {output}> >(trap '' INT TERM && exec sed -u "s/^/[$i] /")
    filters+=("$!")
    "${command[@]}" >&"$output" 2>&1 &
    running[$!]=$i
    exec {output}>&-
  fi
done

final=0 saved=''
while ((${#running[@]})); do
  status=0
  wait -n -p ended "${!running[@]}" || status=$?
  [[ -n ${ended:-} ]] || continue # A signal was passed on.
  if ((status)); then
    echo "local_processes.sh: process ${running[$ended]} ended with status $status" >&2
  fi
  unset "running[$ended]"
  if ((status == 75)); then
    saved=yes
  elif ((status && !final)); then
    final=$status
    pids=("${!running[@]}")
    if ((${#pids[@]})); then
      (
        sleep "${PEER_SECONDS:-150}"
        for signal in TERM KILL; do
          for pid in "${pids[@]}"; do kill "-$signal" -- "-$pid" 2>/dev/null || :; done
          sleep 10
        done
      ) &
      watchdog=$!
    fi
  fi
done
((${#filters[@]} == 0)) || wait "${filters[@]}" || :
((final == 0)) && [[ $saved ]] && final=75
exit "$final"
