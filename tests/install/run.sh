#!/bin/sh
# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
#
# Install into an empty folder and be a user of what is there:  run.sh BUILD CC [CXX]
# A program outside the tree is built with nothing but pkg-config, as C and as C++, and run;
# examples are built by the recipes of their README; the tool and its man page answer from
# their installed places.
set -eu
build=$1 cc=$2 cxx=${3:-}
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
meson install -C "$build" --no-rebuild --destdir "$work" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }

pc=$(find "$work" -name polder.pc)
export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$work"
flags=$(pkg-config --cflags --libs polder)
libdir=${pc%/pkgconfig/*}
prefix=${pc%/lib*}

cat >"$work/user.c" <<'C'
#include <polder/polder.h>
#include <stdio.h>

int main(void)
{
    pld_runtime_opts opts = {sizeof(opts), "self", 0, 0};
    pld_runtime *rt = NULL;
    float x = 2;

    if (pld_runtime_open(&opts, &rt) != 0 ||
        pld_allreduce(pld_runtime_world(rt), &x, &x, 1, PLD_F32, PLD_SUM, NULL) != 0) {
        fprintf(stderr, "%s\n", pld_last_error());
        return 1;
    }
    printf("%s %s %g\n", PLD_VERSION, pld_version(), (double)x);
    return pld_runtime_close(&rt) != 0;
}
C
cp "$work/user.c" "$work/user.cpp"
# shellcheck disable=SC2086
"$cc" "$work/user.c" -o "$work/user-c" $flags "-Wl,-rpath,$libdir"
"$work/user-c" | grep -E '^([0-9.]+) \1 2$'
if [ -n "$cxx" ]; then
    # shellcheck disable=SC2086
    "$cxx" -x c++ "$work/user.cpp" -o "$work/user-cpp" -x none $flags "-Wl,-rpath,$libdir"
    "$work/user-cpp" | grep -E '^([0-9.]+) \1 2$'
fi

# recipe LANGUAGE: the block of that language in the README of the examples
recipe() {
    sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$source/examples/README.md" | sed '1d;$d'
}

export LD_LIBRARY_PATH="$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
mkdir "$work/project"
cp "$source/examples/01_allreduce.c" "$work/project/train.c"
cp "$source/examples/check.h" "$work/project/"
recipe make >"$work/project/Makefile"
make -s -C "$work/project" CC="$cc" train
POLDER_TRANSPORT=self "$work/project/train" | grep -x '1 ranks: the sum of their numbers is 1'
if command -v cmake >/dev/null 2>&1; then
    recipe cmake >"$work/project/CMakeLists.txt"
    CC=$cc cmake -S "$work/project" -B "$work/project/cmake" >"$work/log"
    cmake --build "$work/project/cmake" >>"$work/log" || { cat "$work/log"; exit 1; }
    POLDER_TRANSPORT=self "$work/project/cmake/train" | grep -x '1 ranks: the sum .* is 1'
fi

"$prefix/bin/polder" --version | grep -E '^polder [0-9.]+$'
page=$(find "$work" -name 'polder.1*')
[ -n "$page" ] || { echo "no man page installed"; exit 1; }
case $page in
*/share/man/man1/polder.1*) ;;
*) echo "the man page is not where man looks: $page"; exit 1 ;;
esac
echo "installed headers: $(find "$work" -path '*/include/polder/*.h' | wc -l)"
