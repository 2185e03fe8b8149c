#!/usr/bin/env bash
# Commands that tpu_vm.sh runs on each worker of a TPU VM, in the unpacked checkout:
#   install           makes a virtual environment for training on a TPU
#   start ARGS        starts python -m borrow_det.main ARGS, which outlives the connection
#   status            prints borrow_det_worker idle | running | exited STATUS NANOSECONDS
#   follow LINE SECS  prints the log from LINE on, until the run ends or SECS have passed
#   stop              sends SIGTERM, which saves a checkpoint, and SIGKILL after
#                     STOP_SECONDS (300)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# After a reboot, the process id may belong to another process.
running() {
  [[ -f run.pid ]] && grep -qs tpu_worker.sh "/proc/$(<run.pid)/cmdline"
}

install() {
  local candidate
  for candidate in python3.12 python3.11 python3; do
    if "$candidate" -c 'import ensurepip, sys
sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
      "$candidate" -m venv .venv
      break
    fi
  done
  # Some TPU runtimes have only Python 3.10, which is too old.
  if [[ ! -x .venv/bin/pip ]]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python=3.12 .venv
  fi
  .venv/bin/pip install --quiet --requirement requirements.txt \
    --requirement requirements-tpu.txt
}

start() {
  if running; then
    echo "tpu_worker.sh: a run is already in progress on this worker" >&2
    exit 1
  fi
  rm -f run.status run.pid
  nohup setsid bash launch/tpu_worker.sh supervise "$@" >run.log 2>&1 </dev/null &
  # Once run.pid exists, the run has its own process group, which `stop` signals, and
  # records how it ends.
  until [[ -s run.pid ]] || ! kill -0 "$!" 2>/dev/null; do
    sleep 0.01
  done
  if [[ ! -s run.pid ]]; then
    echo "tpu_worker.sh: the run did not start: $(tail --lines=1 run.log)" >&2
    exit 1
  fi
}

supervise() {
  local status=0 told=''
  # At shutdown all processes get SIGTERM; this shell stays to record the exit status.
  trap 'told=1' TERM
  echo "$$" >run.pid
  if [[ $told ]]; then # Before there was a program to tell.
    status=143
  else
    .venv/bin/python -m borrow_det.main "$@" || status=$?
  fi
  echo "exited $status $(date +%s%N)" >run.status.part
  mv run.status.part run.status
}

status() {
  if running; then
    echo "borrow_det_worker running"
  elif [[ -f run.status ]]; then
    echo "borrow_det_worker $(<run.status)"
  elif [[ -f run.pid ]]; then
    # The run was killed with its supervisor, as by a reboot; the log has the time.
    echo "borrow_det_worker exited 137 $(date -r run.log +%s%N)"
  else
    echo "borrow_det_worker idle"
  fi
}

follow() {
  local status=0
  timeout "$2" tail --lines="+$1" --pid="$(<run.pid)" --follow run.log || status=$?
  # 124: the time has passed.
  [[ $status == 0 || $status == 124 ]]
}

stop() {
  local pid second
  running || return 0
  pid=$(<run.pid)
  ((pid > 1)) || return 1 # -1 would be all processes.
  kill -TERM -- "-$pid"
  for ((second = 0; second < ${STOP_SECONDS:-300}; second++)); do
    running || return 0
    sleep 1
  done
  kill -KILL -- "-$pid"
}

case ${1:-} in
  install | start | supervise | status | follow | stop) "$@" ;;
  *)
    echo "tpu_worker.sh: unknown command: '${1:-}'" >&2
    exit 2
    ;;
esac
