#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the holder for each machine a compiler is there for: build.sh [directory to put it in].
# Prints the names it built. The result depends on the source and the compiler's version only; the committed
# binaries are made with Debian 12's gcc 12.2 (packages gcc and gcc-aarch64-linux-gnu).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}

build() { # machine, compiler, page size, flags for this machine
    machine=$1 compiler=$2 page=$3
    shift 3
    command -v "$compiler" >/dev/null || return 0
    (
        cd "$here"
        "$compiler" -std=gnu11 -Os -Wall -Wextra -Werror "$@" \
            -ffreestanding -fno-builtin -fno-stack-protector -fno-asynchronous-unwind-tables -fno-ident -fno-pie \
            -static -nostdlib -no-pie \
            -Wl,--build-id=none,-z,noexecstack,-z,noseparate-code,-z,norelro,-z,max-page-size="$page",-s \
            -o "$out/holder-$machine" holder.c
    )
    chmod 0755 "$out/holder-$machine"
    echo "holder-$machine"
}

native() { # the plain gcc, where it is one for this machine
    if [ "$(uname -m)" = "$1" ]; then echo gcc; else echo "$1-linux-gnu-gcc"; fi
}

build x86_64 "$(native x86_64)" 4096 -fcf-protection=none
# arm64 kernels may have pages of 64 KiB.
build aarch64 "$(native aarch64)" 65536 -mbranch-protection=none
