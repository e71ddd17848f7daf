#!/usr/bin/env bash
# Test and time the shipped models on a GPU, in less than 8 minutes and without any network:
#   bench/gpu.sh             writes docs/results/gpu.md and gpu.json beside it
#   bench/gpu.sh --dry-run   the same on the CPU, to see that it runs; writes to a folder in /tmp
#
# PYTHON names the interpreter that has torch (2.11 to 2.13), pytest and what the package needs; the
# default is .venv/bin/python where it is, else python3. OUT names another folder for the results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
'') options=(--device cuda) out=${OUT:-docs/results} marked=gpu named= ;;
--dry-run)
    options=(--device cpu --quick)
    out=${OUT:-$(mktemp -d -t rheostat-gpu.XXXXXX)}
    marked='not gpu' named='cuda or recorded' # recordings that repeat the function
    ;;
*)
    echo "usage: bench/gpu.sh [--dry-run]" >&2
    exit 2
    ;;
esac

python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
mkdir -p "$out"
# Nothing is fetched, and compilers keep what they make out of the checkout.
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 HYPOTHESIS_STORAGE_DIRECTORY=${TMPDIR:-/tmp}/hypothesis
if [[ -z ${1:-} ]] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch of $python sees no CUDA device; try bench/gpu.sh --dry-run" >&2
    exit 2
fi

# Warnings are errors for the versions of constraints.txt alone. A GPU has 180 s for its tests.
status=0
timeout 180 "$python" -m pytest -m "$marked" -k "$named" -W default -p no:cacheprovider -q \
    tests/models/backends/cuda tests/models/backends/onnx/test_export.py tests/conformance \
    > "$out/gpu-tests.log" 2>&1 || status=$?
tests=$(grep -E '(passed|failed|error).* in [0-9.]+s' "$out/gpu-tests.log" | tail -n 1 | tr -d '=' | xargs || true)
[[ $status == 124 ]] && tests="stopped after 180 s"
tests="marked $marked: ${tests:-pytest ended with $status}"
echo "tests $tests; see $out/gpu-tests.log"
grep -E '^(FAILED|ERROR)' "$out/gpu-tests.log" | head -n 20 || true

"$python" -m bench.gpu "${options[@]}" --tests "$tests" \
    --page "$out/gpu.md" --json "$out/gpu.json"
echo "wrote $out/gpu.md"
exit "$status"
