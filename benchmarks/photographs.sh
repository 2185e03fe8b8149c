#!/usr/bin/env bash
# Does borrowing help small objects of photographs? See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: benchmarks/photographs.sh DATA VGG WORK cpu|gpu [SET...]

Trains and compares plain SSD, context, pooling, and borrowing with and without the
matching loss, each with and without pasted copies (configs/sweeps/pasted_copies.py), at
the full width of VGG-16, from published weights. Run it from the root of the repository.

DATA has a folder of images in COCO's format for each SET (default: aquarium
traffic_vehicles atl_roads). VGG is what `borrow-det import-weights` has made of
vgg16_features. Images are shrunk to the network's input first, into WORK/images.
Results are WORK/SET/ablation.md and .json.

aquarium is divided into five folds of training and validation images, so that every
image is evaluated once. The others have few videos or cameras; they are evaluated on
their own validation and test splits.

  gpu  512 pixels, 400 steps of 32 images, the first two stages frozen
  cpu  300 pixels, 300 steps of 8 images, all of VGG-16's convolutions frozen

A second start continues where the first was stopped. MINUTES stops it after that time,
and then reports what is finished. Environment: MINUTES, SEEDS (2), FOLDS (5), JOBS (1;
runs at once), SIZE, STEPS, BATCH, FROZEN, ROWS (names of rows of the sweep, separated
by semicolons; default: all), PYTHON (python3).
TEXT
}
die() {
  echo "photographs.sh: $*" >&2
  exit 2
}

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage && exit; }
(($# >= 4)) || die "give DATA, VGG, WORK, and cpu or gpu; see --help"
data=$(realpath "$1") vgg=$(realpath "$2") work=$(realpath -m "$3") device=$4
shift 4
case $device in
cpu) size=300 steps=300 batch=8 frozen=5 ;;
gpu) size=512 steps=400 batch=32 frozen=2 ;;
*) die "'$device' is neither cpu nor gpu" ;;
esac
size=${SIZE:-$size} steps=${STEPS:-$steps} batch=${BATCH:-$batch}
frozen=${FROZEN:-$frozen}
python=${PYTHON:-python3}
[[ -f $vgg/import.json ]] || die "$vgg is no folder of imported weights"
(($# > 0)) || set -- aquarium traffic_vehicles atl_roads
rows=()
if [[ -n ${ROWS:-} ]]; then
  IFS=';' read -ra names <<<"$ROWS"
  rows=("${names[@]/#/--row=}")
fi
# Smaller anchors than those of the paper: most objects have 10 to 30 of 300 pixels.
anchor_sizes="($((size / 16)).0, $((size / 8)).0, $((size / 4)).0, $((size / 2)).0)"
SECONDS=0

ablate() {
  local set=$1 mode=$2 splits=(--folds="${FOLDS:-5}")
  shift 2
  [[ $set == aquarium ]] || splits=(--config.dataset.eval_splits="('val', 'test')")
  "$@" "$python" -m borrow_det.tools.ablate --sweep=configs/sweeps/pasted_copies.py \
    --config="configs/folder.py:path=$work/images/$set,weights=$vgg,frozen=$frozen,size=$size,steps=$steps,batch=$batch" \
    --config.dataset.canvas="($size, $size)" --config.anchors.sizes="$anchor_sizes" \
    --config.augment.expand=0.0 --config.evaluation.area_pixels=input \
    --config.eval_every="$steps" --config.checkpoint_every="$steps" \
    --config.report.num_pictures=0 --config.report.page_images=0 \
    --config.report.curves=False --workdir="$work/$set" --seeds="${SEEDS:-2}" \
    --jobs="${JOBS:-1}" --mode="$mode" "${splits[@]}" "${rows[@]}" \
    --metrics=AP,AP_small,AP50_small,AP_small_with_lender,AP_small_without_lender,AR_small_with_lender,AR_small_without_lender
}

for set; do
  if [[ ! -d $work/images/$set/annotations ]]; then
    rm -rf "$work/images/$set.part"
    "$python" -m benchmarks.shrink_images --input="$data/$set" \
      --output="$work/images/$set.part" --size="$size"
    mv "$work/images/$set.part" "$work/images/$set"
  fi
  limit=()
  if [[ -n ${MINUTES:-} ]]; then
    left=$((60 * MINUTES - SECONDS))
    ((left > 0)) || { echo "$MINUTES minutes are over"; exit; }
    limit=(timeout --signal=INT "$left")
  fi
  ablate "$set" run "${limit[@]}" || ablate "$set" report
  cat "$work/$set/ablation.md"
done
