#!/usr/bin/env bash
# Compares the components of the model on photographs; see --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: benchmarks/photographs.sh DATA VGG WORK cpu|gpu [SET...]

Trains and compares plain SSD, context, pooling, and borrowing with and without the
matching loss, each with and without pasted copies (configs/sweeps/pasted_copies.py), at
the full width of VGG-16, from published weights.

DATA has a folder of images in COCO's format for each SET (default: aquarium
traffic_vehicles atl_roads). VGG is a folder written by `borrow-det import-weights` for
vgg16_features. Images are shrunk first, into WORK/images. The results of a set are
WORK/SET/ablation.md and .json.

A set without annotations/test.json is divided into FOLDS folds of training and
validation images, so that every image is evaluated once. The other sets are evaluated on
their splits val and test.

  gpu  512 pixels, 400 steps of 32 images, the first two stages frozen
  cpu  256 pixels, 600 steps of 8 images, all of VGG-16's convolutions frozen

With all of them frozen, their maps are computed once, into WORK/maps, and used by all
runs of a set (benchmarks/stored_maps.py): 2.4 GB for 450 images at 256 pixels, for each
fold, and again with pasted copies.

A second start resumes. With MINUTES=M, the runs are stopped after M minutes, of which
each set gets the same share, and the finished rows are reported: a row is finished with
a seed once all of its folds are. Reporting takes additional time.

Environment: MINUTES, SEEDS (2), FOLDS (5), JOBS (1): runs at the same time, SIZE,
STEPS, BATCH, FROZEN, ROWS: rows of the sweep, separated by semicolons (default: all),
PYTHON (python3).

Exit status: 0; 1 if a run or a set failed; 2 for wrong arguments; 130 or 143 if
stopped, which also stops the runs.
TEXT
}
die() {
  echo "photographs.sh: $*" >&2
  exit 2
}

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }
(($# >= 4)) || die "give DATA, VGG, WORK, and cpu or gpu; see --help"
data=$(realpath -m "$1")
vgg=$(realpath -m "$2")
work=$(realpath -m "$3")
device=$4
shift 4
(($# > 0)) || set -- aquarium traffic_vehicles atl_roads
case $device in
cpu) size=256 steps=600 batch=8 frozen=5 platform=cpu ;;
gpu) size=512 steps=400 batch=32 frozen=2 platform=cuda ;;
*) die "'$device' is neither cpu nor gpu" ;;
esac
size=${SIZE:-$size} steps=${STEPS:-$steps} batch=${BATCH:-$batch}
frozen=${FROZEN:-$frozen}
for name in size steps batch MINUTES SEEDS FOLDS JOBS; do
  value=${!name:-1}
  [[ $value =~ ^[1-9][0-9]*$ ]] || die "${name^^}=$value is not an integer above 0"
done
[[ $frozen =~ ^[0-9]+$ ]] || die "FROZEN=$frozen is not an integer of at least 0"
# Arguments of a config are separated by commas.
[[ $vgg$work$* != *,* ]] || die "VGG, WORK and SET must have no comma"
[[ -f $vgg/import.json ]] || die "$vgg is no folder of imported weights"
for set; do
  [[ -d $data/$set/annotations ]] || die "$data/$set has no folder annotations"
done
python=${PYTHON:-python3}
# The link in a virtual environment must not be resolved.
[[ $python != */* ]] || python=$(realpath --no-symlinks "$python")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export JAX_PLATFORMS=$platform

main=borrow_det.main rate=0.0003
if ((frozen == 5)); then
  main=benchmarks.stored_maps
  export STORED_MAPS=$work/maps
  # All layers that are trained start from random weights.
  rate=0.001
fi

rows=()
if [[ -n ${ROWS:-} ]]; then
  IFS=';' read -ra names <<<"$ROWS"
  rows=("${names[@]/#/--row=}")
fi
# A quarter more than the input: crops keep some of their resolution.
largest=$((size * 5 / 4))
# The defaults of configs/base.py, in proportion to the input.
anchors="($((size / 16)).0, $((size / 8)).0, $((size / 4)).0, $((size / 2)).0)"
metrics=AP,AP_small,AP50_small,AP_small_with_lender,AP_small_without_lender
metrics+=,AR_small_with_lender,AR_small_without_lender
metrics+=,AP_small_lender_classes,small_accuracy_confused_with_lender
metrics+=,small_accuracy_confused_without_lender,small_accuracy_clear_with_lender

# With job control, a child has a separate process group: Ctrl-C reaches only this script,
# which passes every signal on as the one that ablate expects.
set -m
child=''
# shellcheck disable=SC2317,SC2329  # Called by the traps.
stop() {
  trap '' INT TERM HUP
  [[ -z $child ]] || { kill -INT "$child" 2>/dev/null && wait "$child"; } || true
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP
# Runs a command, and returns its status.
run() {
  local code=0
  "$@" &
  child=$!
  wait "$child" || code=$?
  child=''
  return "$code"
}

# Runs or reports the sweep on a set: ablate SET MODE [COMMAND that limits it...]
ablate() {
  local images=$work/images/$largest/$1 set=$1 mode=$2 splits=(--folds="${FOLDS:-5}")
  shift 2
  if [[ -f $images/annotations/test.json ]]; then
    splits=(--config.dataset.eval_splits="('val', 'test')")
  fi
  run "$@" "$python" -m borrow_det.tools.ablate --main="$main" --against="ssd + context" \
    --sweep=configs/sweeps/pasted_copies.py \
    --config="configs/folder.py:path=$images,weights=$vgg,frozen=$frozen,size=$size,steps=$steps,batch=$batch" \
    --config.dataset.canvas="($largest, $largest)" \
    --config.optimizer.learning_rate="$rate" \
    --config.anchors.sizes="$anchors" --config.augment.expand=0.0 \
    --config.evaluation.area_pixels=input --config.eval_every="$steps" \
    --config.checkpoint_every="$steps" --config.report.num_pictures=0 \
    --config.report.page_images=0 --config.report.curves=False \
    --workdir="$work/$set" --seeds="${SEEDS:-2}" --jobs="${JOBS:-1}" --mode="$mode" \
    "${splits[@]}" "${rows[@]}" --metrics="$metrics"
}

# Shrinks the images of a set, unless that is done.
shrink() {
  local from=$data/$1 folder=$work/images/$largest
  if [[ -d $folder/$1 ]]; then
    [[ $(<"$folder/$1.from") == "$from" &&
      -z $(find "$from/annotations" -newer "$folder/$1.from") ]] ||
      die "$folder/$1 is of other images or annotations: remove it and $work/$1"
    return
  fi
  rm -rf "$folder.part"
  run "$python" -m borrow_det.tools.convert --input="$from" --output="$folder.part" \
    --largest_side="$largest" || return
  mkdir -p "$folder"
  echo "$from" >"$folder/$1.from"
  mv "$folder.part" "$folder/$1"
}

SECONDS=0 status=0
while (($# > 0)); do
  set=$1 limit=() code=0
  echo "== $set"
  if [[ -n ${MINUTES:-} ]]; then
    left=$(((60 * MINUTES - SECONDS) / $#))
    # In the foreground, it signals ablate alone, which stops its runs.
    limit=(timeout --foreground --signal=INT "$((left > 0 ? left : 1))")
  fi
  shift
  shrink "$set" || { status=1 && continue; }
  ablate "$set" run "${limit[@]}" || code=$?
  if ((code == 124)); then
    code=0
    ablate "$set" report || code=$?
    ((code != 2)) || { echo "$set: no row is finished yet" && code=0; }
  fi
  # 2: wrong fields, which other sets have, too.
  ((code != 2)) || exit 2
  ((code == 0)) || status=1
done
exit "$status"
