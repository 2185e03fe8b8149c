#!/usr/bin/env bash
# Trains on a Cloud TPU VM, across preemptions; see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh run    --name=N --zone=Z --type=T --version=V [FLAGS] -- ARGS
       launch/tpu_vm.sh status --name=N --zone=Z [--queued] [--project=P]
       launch/tpu_vm.sh delete --name=N --zone=Z [--queued] [--project=P]

run     creates the TPU VM N or uses an existing one, copies this checkout (files that git
        does not ignore) to all its workers, installs it, starts
        `python -m borrow_det.main --distributed ARGS` on each worker, and follows the log.
        The run does not depend on this script: after an interruption, the same command
        follows it again. After a preemption, the script creates the VM again and resumes
        the run from its checkpoint. At the end, successful or not, it deletes the VM.
status  prints the state of the VM and of the run on each worker.
delete  deletes the VM, and with --queued the queued resource.

ARGS are the arguments of borrow_det.main. Their --workdir must start with gs://, except
with one worker, --max_restarts=0 and --keep: a local disk belongs to one worker and is
deleted with the VM.

  --name=N              name of the VM and of the queued resource
  --zone=Z              zone, e.g. us-west4-a
  --project=P           project (default: the one of gcloud's configuration)
  --type=T              accelerator type, e.g. v5litepod-16
  --version=V           runtime version, e.g. v2-alpha-tpuv5-lite
  --queued              request a queued resource, which waits until TPUs are available;
                        without it, missing capacity is an error
  --spot                use preemptible TPUs, which cost less
  --create_flag=FLAG    further flag of gcloud's create, e.g. --service-account=S
  --connect_flag=FLAG   further flag of gcloud's ssh and scp, e.g. --internal-ip
  --max_restarts=100    largest number of restarts after preemptions and lost workers
  --poll=30             seconds between checks
  --keep                keep the VM at the end
  --delete_on_interrupt delete the VM after Ctrl-C as well
  --dry-run             print the commands of a run without failures and run none

Exit status: that of the run (0 done; 1 a bug; 2 wrong input; 134, 137 or 143 if workers
were killed ten times on a VM that was not lost); 2 for wrong flags; 3 if gcloud failed;
75 after more than --max_restarts restarts; 130 after Ctrl-C.
TEXT
}

say() { echo "tpu_vm.sh: $*" >&2; }
die() { # STATUS MESSAGE
  say "$2"
  exit "$1"
}

name='' zone='' project='' type='' version='' poll=30 max_restarts=100
queued='' spot='' keep='' delete_on_interrupt='' dry_run=''
create_flags=() connect_flags=() main_args=()

parse_flags() {
  while (($#)); do
    case $1 in
      --) main_args=("${@:2}") && return ;;
      --queued) queued=yes ;;
      --spot) spot=yes ;;
      --keep) keep=yes ;;
      --delete_on_interrupt) delete_on_interrupt=yes ;;
      --dry-run | --dry_run) dry_run=yes ;;
      --name=*) name=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --type=*) type=${1#*=} ;;
      --version=*) version=${1#*=} ;;
      --poll=*) poll=${1#*=} ;;
      --max_restarts=*) max_restarts=${1#*=} ;;
      --create_flag=*) create_flags+=("${1#*=}") ;;
      --connect_flag=*) connect_flags+=("${1#*=}") ;;
      *) die 2 "unknown flag $1 (flags are --flag=value; those of borrow_det.main follow --)" ;;
    esac
    shift
  done
}

need() { # FLAG...
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || die 2 "--$flag is missing"
  done
}

check_run_flags() {
  local arg workdir='' previous=''
  need name zone type version
  [[ $max_restarts =~ ^[0-9]+$ ]] || die 2 "--max_restarts=$max_restarts is not a number"
  max_restarts=$((10#$max_restarts)) # A leading zero does not mean octal.
  [[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || die 2 "--poll=$poll is not a number"
  ((${#main_args[@]})) || die 2 "nothing to run: give the arguments of borrow_det.main after --"
  for arg in "${main_args[@]}"; do
    [[ $previous == --workdir ]] && workdir=$arg
    [[ $arg == --workdir=* ]] && workdir=${arg#*=}
    previous=$arg
  done
  [[ -n $workdir ]] || die 2 "--workdir is missing in the arguments of borrow_det.main"
  [[ $workdir == gs://* ]] && return
  [[ $type =~ -([0-9]+)$ ]] ||
    die 2 "--type=$type does not end with a number, as v5litepod-16 does"
  # In all generations, up to 8 (chips or cores) belong to one worker.
  ((10#${BASH_REMATCH[1]} <= 8)) ||
    die 2 "--workdir=$workdir: all workers of a $type must see it; use gs://"
  [[ $max_restarts == 0 && $keep ]] ||
    die 2 "--workdir=$workdir is deleted with the VM: use gs://, or --max_restarts=0 --keep"
  [[ $workdir == /* ]] ||
    die 2 "--workdir=$workdir is in the copy of the checkout, which each start replaces"
}

# Runs gcloud, or with --dry-run prints its command.
quoted() {
  local words
  printf -v words '%q ' "$@"
  echo "${words% }"
}
tpus() { # COMMAND...: adds the flags of all commands
  local command=(gcloud compute tpus "$@" "--zone=$zone")
  [[ -z $project ]] || command+=("--project=$project")
  command+=(--quiet)
  if [[ $dry_run ]]; then quoted "${command[@]}" >&3; else "${command[@]}"; fi
}
costs() { # a note on a VM that may still cost money
  echo "if $name exists, it still costs money: launch/tpu_vm.sh delete --name=$name \
--zone=$zone${queued:+ --queued}"
}
must() { # COMMAND...: a failure ends this script, after the message of gcloud
  tpus "$@" || die 3 "gcloud compute tpus $1 $2 failed (exit status $?); $(costs)"
}

# --- the VM ---

pretended=NONE # State of the VM with --dry-run.
describe() {   # KIND FIELD: sets state; NONE if it does not exist
  local tries=0
  until state=$(tpus "$1" describe "$name" "--format=value($2)" 2>"$scratch/errors"); do
    if grep -qE 'NOT_FOUND|was not found' "$scratch/errors"; then
      state=NONE
      break
    fi
    # Network failures of minutes must not end a long run; permanent errors must.
    if ((++tries == 10)) ||
      grep -qE 'PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|command not found' \
        "$scratch/errors"; then
      cat "$scratch/errors" >&2
      die 3 "gcloud compute tpus $1 describe failed; $(costs)"
    fi
    pause
  done
  [[ -z $dry_run ]] || state=$pretended
}

# Sets state: READY, NONE, LOST (to be deleted), WAIT, or a state for the user to resolve.
look() {
  if [[ $queued ]]; then
    describe queued-resources state.state
    case $state in
      NONE) return ;;
      FAILED | SUSPENDED) state=LOST && return ;;
      ACTIVE) ;;
      READY) [[ $dry_run ]] || die 3 "$name: queued resources have no state READY" ;;
      *) state=WAIT && return ;; # CREATING, WAITING_FOR_RESOURCES, PROVISIONING, ...
    esac
  fi
  describe tpu-vm state
  case $state in
    NONE) [[ -z $queued ]] || state=LOST ;;
    PREEMPTED | TERMINATED | FAILED | SUSPENDED) state=LOST ;;
    CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING | DELETING) state=WAIT ;;
  esac
}

create() {
  say "creating $name, a $type in $zone"
  if [[ $queued ]]; then
    must queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
      "--runtime-version=$version" ${spot:+--spot} "${create_flags[@]}"
  else
    must tpu-vm create "$name" "--accelerator-type=$type" "--version=$version" \
      ${spot:+--spot} "${create_flags[@]}"
  fi
  pretended=READY
}

delete() {
  say "deleting $name"
  if [[ $queued ]]; then
    must queued-resources delete "$name" --force
  else
    must tpu-vm delete "$name"
  fi
}

fresh='' # Set if this script has created the VM since the last attempt.
bring_up() { # fails if the VM is lost before it is ready
  fresh=''
  while look; do
    case $state in
      READY) return ;;
      WAIT) pause ;;
      LOST)
        delete
        [[ -z $fresh ]] || return 1
        ;;
      NONE)
        [[ -z $fresh ]] || return 1
        create
        fresh=yes
        ;;
      *) die 3 "$name is $state: start it or delete it" ;;
    esac
  done
}

pause() { [[ $dry_run ]] || sleep "$poll"; }

# --- the workers ---

worker=borrow_det/launch/tpu_worker.sh
ask="if [ -f $worker ]; then bash $worker status; else echo borrow_det_worker idle; fi"
on() { # WORKERS COMMAND
  tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" \
    --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4 \
    "${connect_flags[@]}"
}

# After a step failed on the workers: returns if the VM is lost, else exits.
lost_or_die() { # STEP
  look
  [[ $state == READY ]] || return 0
  die 3 "$1 failed on $name, although it is ready; $(costs)"
}

# Sets verdict: idle, running, ending (some still run), done, resumable, or failed and code.
survey() {
  local lines
  lines=$(on all "$ask") || return 1
  [[ -z $dry_run ]] || lines="borrow_det_worker exited 0 1"
  # The worker that failed first has the reason; its failure ends the others.
  read -r verdict code < <(awk '
    $1 != "borrow_det_worker" { next }
    { seen[$2]++ }
    $2 == "exited" && $3 == 2 { wrong = 1 }
    $2 == "exited" && $3 != 0 && (!first || $4 < at) { first = $3; at = $4 }
    END {
      if (seen["running"]) print (seen["exited"] + seen["idle"] ? "ending" : "running"), 0
      else if (!seen["exited"]) print "idle", 0
      else if (wrong) print "failed", 2
      else if (first ~ /^(75|134|137|143)$/ || seen["idle"]) print "resumable", (first ? first : 137)
      else if (first) print "failed", first
      else print "done", 0
    }' <<<"$lines")
}

install_and_start() { # fails if the VM is lost meanwhile
  local args
  printf -v args ' %q' --distributed "${main_args[@]}"
  tpus tpu-vm scp "$scratch/borrow_det.tar.gz" "$name:borrow_det.tar.gz" --worker=all \
    "${connect_flags[@]}" || { lost_or_die "copying" && return 1; }
  on all "if [ -f $worker ]; then bash $worker stop; fi && rm -rf borrow_det && mkdir borrow_det && \
tar -xzf borrow_det.tar.gz -C borrow_det && bash $worker install" ||
    { lost_or_die "installing" && return 1; }
  on all "bash $worker start$args" || { lost_or_die "starting" && return 1; }
}

kills=0
watch() { # until the run ends; fails if it should be resumed; sets code
  local line=1 broken=0 ending=0
  while :; do
    on 0 "bash $worker follow $line $((ending ? 10 : 600))" | tee "$scratch/log" >&4 || say "the connection to the log of $name was lost"
    line=$((line + $(wc -l <"$scratch/log")))
    look
    [[ $state == READY ]] || return 1
    if ! survey; then
      ((++broken < 10)) || die 3 "$name is ready, but ssh to it fails; $(costs)"
      pause
      continue
    fi
    broken=0
    case $verdict in
      running) pause ;;
      ending) # The others exit within about a minute; stop those that do not.
        ((++ending < 20)) || on all "bash $worker stop" || lost_or_die "stopping"
        pause
        ;;
      done | failed) return 0 ;;
      # Killed without saving. If memory is too small, each restart would fail again.
      resumable)
        [[ $code != 75 ]] || return 1
        ((++kills >= 10)) || return 1
        return 0
        ;;
      *) return 1 ;;
    esac
  done
}

attempt() { # fails if the run should be resumed
  if [[ -z $fresh ]]; then
    survey || { lost_or_die "asking for a run" && return 1; }
    if [[ $verdict == running || $verdict == ending ]]; then
      say "a run is in progress on $name: following it"
      watch
      return
    fi
  fi
  install_and_start && watch
}

# --- commands ---

pack() { # files that git does not ignore, with uncommitted changes; once for all restarts
  local list=(git -C "$root" ls-files --cached --others --exclude-standard -z)
  local tar=(tar -C "$root" --null -T - -czf "$scratch/borrow_det.tar.gz")
  if [[ $dry_run ]]; then
    echo "$(quoted "${list[@]}") | $(quoted "${tar[@]}")"
  else
    # Removed files that are not committed are still listed.
    "${list[@]}" | while IFS= read -r -d '' file; do
      [[ ! -e $root/$file && ! -L $root/$file ]] || printf '%s\0' "$file"
    done | "${tar[@]}" || die 3 "packing $root failed"
  fi
}

interrupted() {
  trap '' INT
  [[ -z $delete_on_interrupt ]] || delete
  [[ $delete_on_interrupt ]] || say "the run continues there; $(costs)"
  exit 130
}

run() {
  local restarts=0
  check_run_flags
  pack
  trap interrupted INT
  code=0
  until bring_up && attempt; do
    if ((++restarts > max_restarts)); then
      say "lost more than --max_restarts=$max_restarts times"
      code=75
      break
    fi
    say "resuming, restart $restarts of at most $max_restarts"
    pause
  done
  if [[ $keep ]]; then say "$name is kept and still costs money"; else delete; fi
  exit "$code"
}

status() {
  need name zone
  look
  echo "$name: $state"
  [[ $state != READY ]] || on all "$ask"
}

((BASH_VERSINFO[0] >= 5)) || die 2 "bash $BASH_VERSION is too old: 5.0 is needed"
verb=${1:-}
case $verb in
  run | status | delete) ;;
  -h | --help) usage && exit ;;
  *) usage >&2 && die 2 "the first argument must be run, status or delete, not '$verb'" ;;
esac
for arg in "${@:2}"; do
  [[ $arg != -- ]] || break
  [[ $arg != --help ]] || { usage && exit; }
done
parse_flags "${@:2}"
need name zone
# Descriptors that bypass pipes: 3 for the commands of --dry-run, 4 for the log of the run.
exec 3>&1 4>&1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$verb"
