#!/usr/bin/env bash
# Check hiera_seg on a machine with a GPU, without a network, in at most 8 minutes:
#
#     tools/benchmark/gpu_check.sh [WHEELS] [OUTPUT]
#
# WHEELS: a folder of wheels of what is missing beside torch (2.11 or newer), timm and OpenCV:
#   detectron2, fvcore, iopath, yacs, pycocotools, omegaconf, hydra-core, portalocker, pytest, ...
#   They are unpacked into OUTPUT/site, so that the installed packages stay as they are.
#   Default: none, everything is installed.
# OUTPUT: a folder for logs and results (default: output/gpu_check).
# PYTHON names another interpreter. CamVid below $DETECTRON2_DATASETS is trained if it is there,
# else generated scenes. Without a GPU the same steps run on the CPU, small, as a test of this
# script; what only a GPU shows is then reported as "not run".
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
wheels=${1:-}
out=${2:-output/gpu_check}
python=${PYTHON:-python3}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd) || exit 2
cd "$top" || exit 2
summary=$out/summary.txt
: > "$summary"
failed=0

say() { echo "$*" | tee -a "$summary"; }

# step NAME SECONDS COMMAND...: run with a time limit and a log, and report.
step() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
    case $status in
        0) say "$name: passed in $((SECONDS - start)) s" ;;
        124) say "$name: FAILED, not finished after $limit s; see $out/$name.log" ;;
        *) say "$name: FAILED with status $status; see $out/$name.log" ;;
    esac
    [ $status -eq 0 ] || { failed=1; tail -n 15 "$out/$name.log"; }
    return $status
}

if [ -n "$wheels" ]; then
    step install 60 "$python" -m pip install --quiet --no-index --no-deps --upgrade \
        --target "$out/site" "$wheels"/*.whl || exit 1
    export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$top:$top/tools${PYTHONPATH:+:$PYTHONPATH}"
step imports 60 "$python" -c "import torch, detectron2, timm, cv2, pytest, hiera_seg" || exit 1
gpu=$("$python" -c "import torch; print(int(torch.cuda.is_available()))")
[ "$gpu" = 1 ] || say "no GPU: the tests, kernel, bandwidth and steps of a GPU are not run"

# The tests that need CUDA, those with the sync debug mode among them; they are skipped on a CPU.
step tests 150 "$python" -m pytest -q -rs -p no:cacheprovider tests/losses/test_cuda.py \
    tests/modeling/test_cuda.py tests/layers/test_deformable_attention.py
step kernel_and_steps 150 "$python" -m benchmark.gpu --output "$out/gpu_check.json"
grep -vE "^\[|Warning" "$out/kernel_and_steps.log" | tail -n 20 | tee -a "$summary"

if [ -d "${DETECTRON2_DATASETS:-datasets}/camvid" ]; then
    config=configs/CamVid/hssn_deeplab_v3_plus_r18.yaml
else
    config=configs/Generated/hssn_deeplab_v3_plus_r18.yaml
fi
options=(OUTPUT_DIR "$out/training" MODEL.WEIGHTS "" SEED 1)
if [ "$gpu" = 1 ]; then
    options+=(SOLVER.MAX_ITER 500 SOLVER.AMP.ENABLED True SOLVER.AMP.PRECISION bfloat16
        TEST.EVAL_PERIOD 0)
else
    options+=(SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 INPUT.CROP.SIZE "[64, 64]"
        DATALOADER.NUM_WORKERS 0 DATASETS.TEST "()" TEST.EVAL_PERIOD 0)
fi
rm -rf "$out/training"
step training 150 "$python" tools/train_net.py --config-file "$config" "${options[@]}"
grep -hE "mIoU|s/it|Overall training speed" "$out/training.log" | tail -n 8 | tee -a "$summary"

say "total: $SECONDS s; results in $out"
exit $failed
