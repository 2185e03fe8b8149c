#!/usr/bin/env bash
# Trains on a Cloud TPU VM, through preemptions: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh run    --name=N --zone=Z --type=T --version=V [FLAGS] -- ARGS
       launch/tpu_vm.sh status --name=N --zone=Z [--queued] [--project=P]
       launch/tpu_vm.sh delete --name=N --zone=Z [--queued] [--project=P]

run     makes the TPU VM N, or takes the one of that name, copies this checkout (what git
        does not ignore) to all its workers, installs it, runs
        `python -m borrow_det.main --distributed ARGS` on each, detached, and follows the
        log. Interrupted here, the run goes on there, and the same command follows it
        again. Preempted, it makes the VM again, and the run goes on from its checkpoint.
        At the end, successful or not, it deletes the VM.
status  prints the state of the VM and of the run on each worker.
delete  deletes the VM, and with --queued the queued resource.

ARGS are those of borrow_det.main. Their --workdir must be a gs:// one, unless there is
one worker, --max_restarts=0 and --keep: a local disk belongs to one worker and ends with
the VM.

  --name=N              the VM, and the queued resource
  --zone=Z              e.g. us-west4-a
  --project=P           default: gcloud's own
  --type=T              accelerator type, e.g. v5litepod-16
  --version=V           runtime version, e.g. v2-alpha-tpuv5-lite
  --queued              by a queued resource, which waits until there is a free one;
                        without it, no free one is an error
  --spot                may be preempted, and costs less
  --create_flag=FLAG    one more flag for gcloud's create, e.g. --service-account=S
  --connect_flag=FLAG   one more flag for gcloud's ssh and scp, e.g. --internal-ip
  --max_restarts=100    so many preemptions, restarts and lost workers are survived
  --poll=30             seconds between looks
  --keep                do not delete the VM at the end
  --delete_on_interrupt delete it at Ctrl-C as well
  --dry-run             print the commands of a run without incident, and run none

Exit status: that of the run (0 done, 1 a bug, 2 wrong input, 134, 137 or 143 where workers
were killed ten times on a VM that stayed), 2 also for wrong flags here, 3 gcloud failed, 75
preempted once more than --max_restarts, 130 Ctrl-C.
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
      *) die 2 "unknown flag $1 (flags are --flag=value, borrow_det.main's come after --)" ;;
    esac
    shift
  done
}

need() { # FLAG…
  local flag
  for flag in "$@"; do
    [[ -n ${!flag} ]] || die 2 "--$flag is missing"
  done
}

check_run_flags() {
  local arg workdir='' previous=''
  need name zone type version
  [[ $max_restarts =~ ^[0-9]+$ ]] || die 2 "--max_restarts=$max_restarts is no number"
  max_restarts=$((10#$max_restarts)) # A leading zero means nothing.
  [[ $poll =~ ^[0-9]+(\.[0-9]+)?$ ]] || die 2 "--poll=$poll is no number"
  ((${#main_args[@]})) || die 2 "nothing to run: borrow_det.main's arguments come after --"
  for arg in "${main_args[@]}"; do
    [[ $previous == --workdir ]] && workdir=$arg
    [[ $arg == --workdir=* ]] && workdir=${arg#*=}
    previous=$arg
  done
  [[ -n $workdir ]] || die 2 "--workdir is missing among borrow_det.main's arguments"
  [[ $workdir == gs://* ]] && return
  [[ $type =~ -([0-9]+)$ ]] ||
    die 2 "--type=$type does not end with a number, as v5litepod-16 does"
  # Up to 8 (chips or cores, by the generation) are one worker in all of them.
  ((10#${BASH_REMATCH[1]} <= 8)) ||
    die 2 "--workdir=$workdir: the workers of a $type need one that all see: gs://"
  [[ $max_restarts == 0 && $keep ]] ||
    die 2 "--workdir=$workdir ends with the VM: give a gs:// one, or --max_restarts=0 --keep"
  [[ $workdir == /* ]] ||
    die 2 "--workdir=$workdir lies in the copy of the checkout, which each start replaces"
}

# gcloud, or with --dry-run its printed command.
quoted() {
  local words
  printf -v words '%q ' "$@"
  echo "${words% }"
}
tpus() { # COMMAND…: adds what all of them need
  local command=(gcloud compute tpus "$@" "--zone=$zone")
  [[ -z $project ]] || command+=("--project=$project")
  command+=(--quiet)
  if [[ $dry_run ]]; then quoted "${command[@]}" >&3; else "${command[@]}"; fi
}
costs() { # what may go on costing, and how to end that
  echo "if $name exists, it goes on costing: launch/tpu_vm.sh delete --name=$name \
--zone=$zone${queued:+ --queued}"
}
must() { # COMMAND…: a failure ends this script, with gcloud's own message before it
  tpus "$@" || die 3 "gcloud compute tpus $1 $2 failed (exit status $?); $(costs)"
}

# --- the VM ---

pretended=NONE # What --dry-run finds.
describe() {   # KIND FIELD: sets state; NONE where there is no such thing
  local tries=0
  until state=$(tpus "$1" describe "$name" "--format=value($2)" 2>"$scratch/errors"); do
    if grep -qE 'NOT_FOUND|was not found' "$scratch/errors"; then
      state=NONE
      break
    fi
    # A network that fails for minutes must not end a run of days; what stays wrong must.
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

# Sets state: READY, NONE, LOST (to be deleted), WAIT, or what only a person can judge.
look() {
  if [[ $queued ]]; then
    describe queued-resources state.state
    case $state in
      NONE) return ;;
      FAILED | SUSPENDED) state=LOST && return ;;
      ACTIVE) ;;
      READY) [[ $dry_run ]] || die 3 "$name: queued resources know no state READY" ;;
      *) state=WAIT && return ;; # CREATING, WAITING_FOR_RESOURCES, PROVISIONING, …
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
  say "making $name, a $type in $zone"
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

fresh='' # Whether this script made the VM since the last attempt.
bring_up() { # fails where the VM is lost before it was ready
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

# A step on the workers that failed: lost if the VM is, else the end.
lost_or_die() { # WHAT
  look
  [[ $state == READY ]] || return 0
  die 3 "$1 failed on $name, which is ready; $(costs)"
}

# Sets verdict: idle, running, ending (some still run), done, resumable, or failed and code.
survey() {
  local lines
  lines=$(on all "$ask") || return 1
  [[ -z $dry_run ]] || lines="borrow_det_worker exited 0 1"
  # The worker that failed first says why; the others die of its absence.
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

install_and_start() { # fails where the VM is lost meanwhile
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
watch() { # until the run ends: fails where it is to be resumed; sets code
  local line=1 broken=0 ending=0
  while :; do
    on 0 "bash $worker follow $line $((ending ? 10 : 600))" | tee "$scratch/log" >&4 || say "the log of $name broke off"
    line=$((line + $(wc -l <"$scratch/log")))
    look
    [[ $state == READY ]] || return 1
    if ! survey; then
      ((++broken < 10)) || die 3 "$name is ready, and ssh to it fails; $(costs)"
      pause
      continue
    fi
    broken=0
    case $verdict in
      running) pause ;;
      ending) # The others notice within about a minute; a stuck one costs as much.
        ((++ending < 20)) || on all "bash $worker stop" || lost_or_die "stopping"
        pause
        ;;
      done | failed) return 0 ;;
      # Not saved but killed: once the memory is too small, it is so at every restart.
      resumable)
        [[ $code != 75 ]] || return 1
        ((++kills >= 10)) || return 1
        return 0
        ;;
      *) return 1 ;;
    esac
  done
}

attempt() { # fails where it is to be resumed
  if [[ -z $fresh ]]; then
    survey || { lost_or_die "asking for a run" && return 1; }
    if [[ $verdict == running || $verdict == ending ]]; then
      say "a run is going on on $name: following that one"
      watch
      return
    fi
  fi
  install_and_start && watch
}

# --- what a person calls ---

pack() { # What git does not ignore, uncommitted changes too; one packing for all restarts.
  local list=(git -C "$root" ls-files --cached --others --exclude-standard -z)
  local tar=(tar -C "$root" --null -T - -czf "$scratch/borrow_det.tar.gz")
  if [[ $dry_run ]]; then
    echo "$(quoted "${list[@]}") | $(quoted "${tar[@]}")"
  else
    # What was removed and not committed is still listed.
    "${list[@]}" | while IFS= read -r -d '' file; do
      [[ ! -e $root/$file && ! -L $root/$file ]] || printf '%s\0' "$file"
    done | "${tar[@]}" || die 3 "packing $root failed"
  fi
}

interrupted() {
  trap '' INT
  [[ -z $delete_on_interrupt ]] || delete
  [[ $delete_on_interrupt ]] || say "a run goes on there; $(costs)"
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
      say "lost once more than --max_restarts=$max_restarts"
      code=75
      break
    fi
    say "resuming, restart $restarts of at most $max_restarts"
    pause
  done
  if [[ $keep ]]; then say "$name is kept, and goes on costing"; else delete; fi
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
  *) usage >&2 && die 2 "the first argument is run, status or delete, not '$verb'" ;;
esac
for arg in "${@:2}"; do
  [[ $arg != -- ]] || break
  [[ $arg != --help ]] || { usage && exit; }
done
parse_flags "${@:2}"
need name zone
# 3 takes --dry-run's commands and 4 the run's log, out of pipes and captures.
exec 3>&1 4>&1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$verb"
