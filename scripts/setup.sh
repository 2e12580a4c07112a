#!/usr/bin/env bash
# Checks for what a build needs, and installs what it may: a C compiler (apt-get, as root or with passwordless sudo) and
# the toolchain that rust-toolchain.toml names (rustup). With the argument `rocksdb`, also for what RocksDB is compiled
# with: a C++ compiler and libclang. Silent when nothing is missing; talks on stderr only, so that what a command prints
# afterwards can be piped.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
give_up() {
    say "$@"
    exit 1
}

# rustc links with cc, and raft-engine's compression is in C: the compiler needs headers and libc, not just to exist.
c_compiler_works() {
    command -v cc >/dev/null || return 1
    local dir
    dir=$(mktemp -d)
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$dir/probe.c"
    local status=0
    cc -o "$dir/probe" "$dir/probe.c" >/dev/null 2>&1 || status=1
    rm -rf "$dir"
    return "$status"
}

# RocksDB is in C++, and its interface is read by libclang when it is built.
cxx_compiler_works() {
    command -v c++ >/dev/null && printf '#include <string>\n' | c++ -x c++ -std=c++20 -fsyntax-only - 2>/dev/null
}

# Where clang-sys looks for it, on Linux. Elsewhere it comes with the compiler.
libclang_is_there() {
    [ "$(uname)" = Linux ] && [ -z "${LIBCLANG_PATH:-}" ] || return 0
    local directory
    for directory in /usr/lib* /usr/lib*/* /usr/lib*/*/* /usr/local/lib* /usr/local/lib*/* /usr/local/llvm*/lib*; do
        compgen -G "$directory/libclang.so*" >/dev/null && return 0
        compgen -G "$directory/libclang-[0-9]*.so*" >/dev/null && return 0
    done
    return 1
}

install() { # what is missing, check, packages of Debian, packages of Fedora
    local what=$1 check=$2 packages=$3
    local by_hand="install it and run this again: on Debian and Ubuntu, sudo apt-get install $packages;"
    by_hand+=" on Fedora, sudo dnf install $4; on macOS, xcode-select --install"
    command -v apt-get >/dev/null || give_up "no $what; $by_hand"

    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            give_up "no $what; $by_hand"
        fi
        as_root=(sudo -n)
    fi
    say "no $what: installing $packages"
    # shellcheck disable=SC2206 # several packages
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q
        --no-install-recommends $packages)
    { "${as_root[@]}" apt-get update -q && "${install[@]}"; } </dev/null >&2 || give_up "apt-get failed; $by_hand"
    "$check" || give_up "still no $what; $by_hand"
}

c_compiler_works || install 'working C compiler (cc)' c_compiler_works 'gcc libc6-dev' 'gcc glibc-devel'
if [ "${1:-}" = rocksdb ]; then
    cxx_compiler_works || install 'working C++ compiler (c++)' cxx_compiler_works g++ gcc-c++
    libclang_is_there || install libclang libclang_is_there libclang-dev clang-devel
fi

pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
version_of_rustc() { rustc --version 2>/dev/null | cut -d ' ' -f 2; }

if ! command -v cargo >/dev/null; then
    say "no cargo: install rustup, then run this again:"
    say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    exit 1
fi
# `rustup run` fails when the toolchain is missing, while rustc itself would make rustup install it without a word.
if command -v rustup >/dev/null && ! rustup run "$pinned" rustc --version >/dev/null 2>&1; then
    say "installing Rust $pinned, which rust-toolchain.toml names"
    rustup toolchain install "$pinned" --profile minimal --component rustfmt --component clippy </dev/null >&2 ||
        give_up "rustup failed; when it can reach its server, run: rustup toolchain install $pinned"
fi
found=$(version_of_rustc || true)
if [ "$found" != "$pinned" ] && command -v rustup >/dev/null; then
    give_up "rustc is ${found:-unusable}, not $pinned; RUSTUP_TOOLCHAIN or a PATH without rustup's rustc is in the way"
fi
if [ "$found" != "$pinned" ]; then
    oldest=$(printf '%s\n%s\n' "$pinned" "${found:-0}" | sort -V | head -n 1)
    [ "$oldest" = "$pinned" ] || give_up "rustc is ${found:-unusable}, at least $pinned is needed: https://rustup.rs"
    say "rustc is $found; this tree is tested with $pinned, so lints and format may differ"
fi
