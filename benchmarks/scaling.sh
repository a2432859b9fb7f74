#!/bin/sh
# The runs that docs/scaling.md shows, on a machine with two idle cores (about seven minutes):
#
#     sh benchmarks/scaling.sh [digits] [digits_strong] [resnet18]
#
# Writes what `esam-tune scale` prints, its numbers and its pictures to docs/scaling/.
set -eu
cd "$(dirname "$0")/.."
storage=$(mktemp -d)
trap 'rm -rf "$storage"' EXIT
[ $# -gt 0 ] || set -- digits digits_strong resnet18
for name in "$@"; do
    out=docs/scaling/$name
    mkdir -p "$out"
    case $name in
        digits) size="--mode weak --rounds 10 --steps 10 --accuracy" ;;
        digits_strong) size="--mode strong --rounds 10 --steps 10 --accuracy" ;;
        *) size="--mode weak --rounds 7 --steps 2" ;;
    esac
    command="scale benchmarks/scaling_${name%_strong}.yaml --workers 1,2 $size"
    command="$command --network latency=20us,bandwidth=10Gbit"
    # shellcheck disable=SC2086 - the command is words
    printed=$(COLUMNS=130 .venv/bin/esam-tune $command --name "$name" --storage "$storage")
    {
        printf '$ esam-tune %s\n' "$command"
        printf '# %s, %s cores, load average before and during: ' "$(uname -m)" "$(nproc)"
        .venv/bin/python -c "
import json, os, sys
document = json.load(open(sys.argv[1]))
print(f\"{document['machine']['load_at_start']:.1f}, {os.getloadavg()[0]:.1f};\", end=' ')
print(', '.join(f'{k} {v}' for k, v in document['versions'].items()), end='; ')
print(f\"seed {document['settings']['seed']}; {document['seconds']:.0f} s\")
" "$storage/scaling/$name/result.json"
        printf '%s\n' "$printed" | grep -v "^picture:\|^numbers:"
    } > "$out/printed.txt"
    cp "$storage/scaling/$name"/*.png "$storage/scaling/$name/result.json" "$out"
    # The result names no place of this machine.
    sed -i "s#$storage/##g" "$out/result.json"
done
