#!/usr/bin/env bash
# Run a Python program on a build of _speed.c that has AddressSanitizer and
# UndefinedBehaviorSanitizer in it. Ends with the program's status, or with another than 0
# and a report on stderr at the first fault.
#
#   scripts/sanitize.sh PYTHON ARGUMENT...
#   scripts/sanitize.sh .venv/bin/python -m tests.core.fuzz --seconds 300
#
# The program runs in a copy of the package and its tests: the checkout's own build stays
# as it is. CC names the compiler (gcc by default). Python's objects are allocated by
# malloc, so that their use after they were freed is seen. Leaks are not looked for:
# Python keeps much until its end.
set -euo pipefail

python=$(command -v "${1:?usage: scripts/sanitize.sh PYTHON ARGUMENT...}")
shift
[[ $python = /* ]] || python=$PWD/$python
cc=${CC:-gcc}
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

cp -r "$root/preble_plugin" "$root/tests" "$copy"
cd "$copy"
rm -f preble_plugin/core/_speed.*.so
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
"$cc" -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
  -fno-sanitize-recover=undefined -shared -fPIC "-I$include" \
  preble_plugin/core/_speed.c -o "preble_plugin/core/_speed$suffix"

export LD_PRELOAD="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc PYTHONPATH="$copy:$copy/tests/core"
"$python" -c 'import os, preble_plugin.core._speed as built
assert built.__file__.startswith(os.getcwd()), built.__file__'
"$python" "$@"
